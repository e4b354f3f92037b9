"""The names that SGLang and its benchmark give to fields: taken everywhere, shown nowhere."""

ENGINE_NAMES = {
    "generation": "build",  # as 0.1.0 called it before its release
    "speculative_algorithm": "method",
    "tp_size": "tp",
    "tensor_parallel_size": "tp",
    "model_path": "model",
    "speculative_draft_model_path": "draft_model",
    "speculative_dflash_block_size": "block",
    "speculative_num_draft_tokens": "block",
    "speculative_num_steps": "steps",
    "speculative_eagle_topk": "topk",
    "speculative_draft_window_size": "window",
    "cuda_graph_max_bs_decode": "cuda_graph_max_bs",
    "mamba_scheduler_strategy": "mamba_radix_cache_strategy",
    "enable_linear_replayssm_spec": "linear_replayssm_spec",
    "max_concurrency": "conc",
    "request_rate": "rate",
    "dataset_name": "dataset",
    "random_input_len": "isl",
    "random_output_len": "osl",
    "random_range_ratio": "range_ratio",
}
# Switches that turn a field off.
OPPOSITES = {"disable_radix_cache": "radix_cache"}


def our_name(name: str) -> str:
    """The field that a flag or keyword means; a name that is nobody's stays as it is.

    Examples
    --------
    >>> our_name("max-concurrency"), our_name("tp"), our_name("no-such")
    ('conc', 'tp', 'no_such')
    """
    plain = name.replace("-", "_")
    return ENGINE_NAMES.get(plain, plain)
