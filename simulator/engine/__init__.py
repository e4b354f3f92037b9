"""SGLang's scheduler loop in time: batches, host stages, two engines, records, metrics."""
