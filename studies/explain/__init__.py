"""Why a number: the step op by op, factors, elasticities, break-evens."""
