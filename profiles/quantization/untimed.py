"""Methods of quantisation that are known, and whose kernels are in no table."""

NOT_PRICED = {
    "bitsandbytes": "bitsandbytes",
    "gguf": "GGUF",
    "quark": "AMD Quark",
    "torchao": "torchao",
    "w4afp8": "INT4 weights with FP8 activations",
    "hqq": "HQQ",
    "aqlm": "AQLM",
    "exl2": "EXL2",
    "exl3": "EXL3",
    "qoq": "QoQ",
    "modelslim": "ModelSlim",
    "blockwise_int8": "INT8 in blocks",
    "petit_nvfp4": "NVFP4 by Petit, for AMD GPUs",
    "quark_int4fp8_moe": "AMD Quark",
}
INSTEAD = "ask for its FP8, NVFP4, AWQ or GPTQ checkpoint"


def not_priced(method: str) -> str:
    """Say which method has no times, by its name in :data:`NOT_PRICED`."""
    return f"{NOT_PRICED[method]}, whose kernels are in no table"
