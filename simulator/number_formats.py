"""Number formats of a server: those of its checkpoint, and what its flags make of them."""

from dataclasses import replace
from functools import partial

from dflash_sim.profiles.checkpoints import find_checkpoint
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.formats import (
    OF_CHECKPOINTS,
    PLAIN,
    check_kv,
    format_named,
    format_of,
    kernels_on,
    kv_format,
    online_names,
    quantises_online,
)
from dflash_sim.profiles.load import load_model
from dflash_sim.profiles.networks.hf_config import DrafterShape, ModelShape
from dflash_sim.profiles.networks.quantized import Quantized, everywhere, online
from dflash_sim.profiles.precision import Formats, Precision, called, on_gpu
from dflash_sim.profiles.releases.engine_sheet import EngineSheet
from dflash_sim.profiles.sheets import Device
from dflash_sim.simulator.cost.cycle import Drafter
from dflash_sim.simulator.scenario import Scenario

UNQUANTISED = "bf16"
# Names that SGLang takes for a checkpoint in compressed-tensors too.
_OF_FILES = dict.fromkeys(("w8a8_fp8", "w8a8_int8", "w4a16", "w8a16"), "compressed-tensors")
# What the draft layers that see everything are run with where the target has trtllm_mha.
_DRAFT_BACKEND = {"trtllm_mha": "fa4"}


def served(s: Scenario, model: ModelShape, device: Device) -> ModelShape:
    """The target as this GPU runs it: quantised by its own files, or by ``--quantization``.

    Raises
    ------
    UsageError
        The checkpoint is quantised otherwise already, or the GPU has no kernels for the format.
    """
    found = _quantized(s.quantization, model)
    if model.quantized is None and (taken := _taken_for(s.quantization, model)):
        model = replace(model, caution="; ".join(filter(None, (model.caution, taken))))
    if found is not None:
        here = partial(on_gpu, arch=device.arch, gpu=device.name)
        layers = tuple((i, here(formats)) for i, formats in found.layers)
        found = replace(found, formats=here(found.formats), layers=layers)
    return model if found == model.quantized else model.stored(found)


def _quantized(asked: str | None, model: ModelShape) -> Quantized | None:
    own = model.quantized
    if asked is None:
        return own
    if own is None and asked == UNQUANTISED:
        return None
    if own is None:
        return _made(asked, model)
    if own.guessed and asked in OF_CHECKPOINTS:
        return own
    if _family(asked) != _family(own.name) and not _is_all_in(own, asked):
        other = f", or give --model {model.base}, which it was made of" if model.base else ""
        msg = (
            f"{model.name} is a checkpoint in {own.name} already, and --quantization {asked} makes "
            f"nothing else of it; drop the flag, or give --quantization {own.name}{other}."
        )
        raise UsageError(msg)
    return own


def _is_all_in(own: Quantized, asked: str) -> bool:
    """Return True if a method is called by the one format that a checkpoint is quantised to.

    People say ``mxfp4`` of Kimi-K3, whose files are in compressed-tensors.
    """
    if asked in OF_CHECKPOINTS:
        return False
    return set(dict(own.formats).values()) == {format_named(asked)}


def _made(asked: str, model: ModelShape) -> Quantized | None:
    """What a bf16 model is quantised to: as it is loaded, or as the checkpoint for the method."""
    if quantises_online(asked):
        return online(asked, model=model.name)
    if one := _checkpoint(asked, model):
        return load_model(one).quantized
    found = everywhere(asked)
    has = {w.module for x, _ in model.layer_groups for w in x.weights(hidden=model.hidden)}
    if has.isdisjoint(dict(found.formats)):
        msg = (
            f"--quantization {asked} is a format of {' and '.join(dict(found.formats))}, and "
            f"{model.name} has none; give --quantization fp8, modelopt_fp4 or awq."
        )
        raise UsageError(msg)
    return found


def _checkpoint(asked: str, model: ModelShape) -> str | None:
    """The checkpoint of a model that a method reads, if one is known that is of it or its format.

    Qwen's FP8 in blocks, say, has the name that ModelOpt's FP8 would have, and is neither.
    """
    one = called(model.name, asked)
    held = load_model(one).quantized if one and find_checkpoint(one) else None
    if held is None or _family(held.name) == _family(asked):
        return one if held else None
    return one if format_named(asked) in dict(held.formats).values() else None


def _taken_for(asked: str | None, model: ModelShape) -> str:
    """Say which checkpoint a method that reads one already quantised was taken to read."""
    if asked in (None, UNQUANTISED) or quantises_online(asked):
        return ""
    one = _checkpoint(asked, model)
    only = format_of(format_named(asked)).only
    parts = f"its {' and '.join(only)} are" if only else "every linear layer is"
    what = f"taken to be {one}" if one else f"none is listed, so {parts} taken for it"
    return f"--quantization {asked} reads a checkpoint that is quantised already: {what}"


def _family(name: str) -> str:
    """What a name says of the files of a checkpoint; the kernels are the server's choice."""
    if name.startswith("modelopt"):
        return "modelopt"
    return _OF_FILES.get(name, name.removesuffix("_marlin"))


def precision_for(
    s: Scenario,
    device: Device,
    engine: EngineSheet,
    model: ModelShape,
    *,
    backend: str,
    drafter: Drafter = None,
) -> Precision:
    """Return the number formats of a server, those of its states, its cache and its drafter.

    Parameters
    ----------
    model
        As :func:`served` has it.
    backend
        Attention backend of the target.

    Raises
    ------
    UsageError
        The kernels that are named do not take states, keys or values in the format that is named.
    """
    state = s.mamba_ssm_dtype or model.state_dtype
    if needs_bfloat16(s, device, engine, model):
        if s.mamba_ssm_dtype not in (None, "bfloat16"):
            msg = (
                f"--linear-attn-decode-backend flashinfer on {device.name} takes states in "
                f"bfloat16 alone, not {s.mamba_ssm_dtype}; give --mamba-ssm-dtype bfloat16, or "
                "drop the backend."
            )
            raise UsageError(msg)
        state = "bfloat16"
    own = model.precision
    kv_cache = kv_format(s.kv_cache_dtype) if s.kv_cache_dtype else own.kv_cache
    if s.kv_cache_dtype is None and kv_cache == PLAIN:
        kv_cache = engine.attention.latent.kv_of(model.latent_kind, device.arch) or PLAIN
    known = engine.attention.known(latent=bool(model.latent_layers), arch=device.arch)
    whose = "" if s.kv_cache_dtype else f"the KV type of {model.name}"
    check_kv(
        kv_cache,
        backend=backend,
        backends=known,
        arch=device.arch,
        gpu=device.name,
        whose=whose,
        backend_given=s.attention_backend is not None,
    )
    return replace(
        own,
        state=state,
        kv_cache=kv_cache,
        modules=own.modules + _of_drafter(s, device),
        draft_kv_cache=_draft_kv(kv_cache, backend, drafter),
    )


def needs_bfloat16(s: Scenario, device: Device, engine: EngineSheet, model: ModelShape) -> bool:
    """Return True if the kernels that are named take recurrent states in bfloat16 alone."""
    if not model.gdn_layers or s.linear_attn_decode_backend != "flashinfer":
        return False
    return device.arch in engine.defaults.state_pool.bfloat16_decode


def drafter_follows(s: Scenario) -> bool:
    """Return True if ``--quantization`` quantises the drafter too, as it does while it loads."""
    own = "speculative_draft_model_quantization"
    if own not in s.speculation.takes or getattr(s, own) is not None:
        return False
    return quantises_online(s.quantization)


def drafter_taken_for(s: Scenario) -> str:
    """Say what a drafter is taken to be whose method reads one already quantised."""
    own = "speculative_draft_model_quantization"
    asked = getattr(s, own)
    if own not in s.speculation.takes or asked in (None, UNQUANTISED) or quantises_online(asked):
        return ""
    ways = " or ".join(online_names())
    return (
        f"--speculative-draft-model-quantization {asked} reads a drafter that is quantised "
        "already, and none is listed: every layer between its fc and its head is taken for it; "
        f"SGLang quantises one in bf16 with {ways} alone"
    )


def _of_drafter(s: Scenario, device: Device) -> Formats:
    """The drafter's format, if it is not bf16: asked for, or what the target's flag makes of it."""
    asked = s.quantization if drafter_follows(s) else s.speculative_draft_model_quantization
    if asked is None or asked == UNQUANTISED:
        return ()
    form = format_named(asked)
    return (("drafter", kernels_on(form, arch=device.arch, gpu=device.name)),)


def _draft_kv(kv_cache: str, backend: str, drafter: Drafter) -> str | None:
    """The format of the drafter's keys and values where its kernels cannot read the target's."""
    if kv_cache == PLAIN or not isinstance(drafter, DrafterShape):
        return None
    layers = drafter.layers
    kept = all(x.window for x in layers) or all(x.causal for x in layers)
    runs = backend if kept else _DRAFT_BACKEND.get(backend, backend)
    kv = format_of(kv_cache).kv
    return PLAIN if kv is not None and runs in kv.not_read_by else None
