"""Launches pasted from pages, logs, Python and configuration files; and those of other engines."""

import json
from pathlib import Path

import pytest

from dflash_sim.calibrate.launches.pasted import as_typed
from dflash_sim.calibrate.observations.launch_command import scenario_from_launch
from dflash_sim.profiles.errors import UsageError
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve

SERVE = "python3 -m sglang.launch_server --model-path Qwen/Qwen3-4B --tp 2"
PLAIN = {"model": "Qwen/Qwen3-4B", "tp": 2, "method": "none"}
ENGINE = """
llm = sgl.Engine(
    model_path="Qwen/Qwen3-4B",  # the small one
    tp_size=2, disable_cuda_graph=False, lora_paths=None,
    log_level="error",
)
print(llm.generate(prompts))
"""


@pytest.mark.parametrize(
    "text",
    [
        f"```bash\n{SERVE}\n```",
        f"> {SERVE} \\\n>   --port 1",
        f"+ {SERVE} \\\n+   --port 1",
        "python3 -m sglang.launch_server \u2014model-path Qwen/Qwen3-4B \u2013\u2013tp 2",
        "python3 -m sglang.launch_server --model-path \u201cQwen/Qwen3-4B\u201d --tp \u20182\u2019",
        SERVE.replace(" ", "\u00a0"),
        "docker run img `\n python3 -m sglang.launch_server `\n --model Qwen/Qwen3-4B `\n --tp 2",
        "docker run img ^\n python3 -m sglang.launch_server ^\n --model Qwen/Qwen3-4B ^\n --tp 2",
        "@echo off\nset TP=2\nset \"OF=Qwen\"\nset Model=%of%/Qwen3-4B\n"
        "python -m sglang.launch_server ^\n --model-path %MODEL% ^\n --tp %TP%",
        f"I don't see it. We start with\n\n    {SERVE} \\\n      --port 1\n\nand it's slow.",
        f"Run `{SERVE}` first.",
        f"[Service]\nEnvironment='A=1'\nExecStart=/opt/bin/{SERVE} \\\n --port 1\nRestart=no",
        f"launch_server_cmd(\"\"\"\n{SERVE}\n\"\"\")",
        ENGINE,
        'cmd = ["python3", "-m", "sglang.launch_server","--model", "Qwen/Qwen3-4B", "--tp", "2"]',
        "Popen(['/usr/bin/sglang', 'serve', '--model=Qwen/Qwen3-4B', '--tp', '2'], env=env)",
        "[10:00] server_args=ServerArgs(model_path='Qwen/Qwen3-4B', tp_size=2, lora_paths=None)",
        "model-path: Qwen/Qwen3-4B\ntensor-parallel-size: 2\nlog-requests: true\nport: 30000",
        "backend:\n  sglang_config:\n   agg:\n    model-path: Qwen/Qwen3-4B\n    tp-size: 2",
        "envs:\n  M: Qwen/Qwen3-4B\nrun: |\n  sglang serve --model-path $M --tp 2\n",
        "image: lmsysorg/sglang\ncommand: [sh, -c]\nargs: ['sglang serve $(M) --tp $(N)']\nenv:\n"
        "- {name: M, value: Qwen/Qwen3-4B}\n- {name: N, value: '2'}",
        "entrypoint: [bash, -c]\ncommand:\n- |\n  M=Qwen/Qwen3-4B\n"
        "  sglang serve \"$$M\" --tp $${N:-2}\nenvironment:\n- N",
        'flags: [\n "--model-path Qwen/Qwen3-4B",\n "--tp 2",\n],',
        "python3 -m dynamo.sglang.worker --model-path Qwen/Qwen3-4B --tp 2",
        "python3 -m dynamo.sglang --endpoint dyn://a --model Qwen/Qwen3-4B --store-kv=x --tp 2",
        "predictor:\n  model:\n    args: ['--model-path=Qwen/Qwen3-4B', '--tp=2']",
        '{"kind": "Pod", "spec": {"containers": [{"command": ["sglang", "serve"], "args": '
        '["--model-path", "Qwen/Qwen3-4B", "--tp", "2"]}]}}',
        "[Service]\nEnvironment=M=Qwen/Qwen3-4B\n"
        "ExecStart=/usr/bin/sglang serve --model-path ${M} --tp 2",
        "[program:x]\ncommand=sglang serve --model-path Qwen/Qwen3-4B\n  --tp 2\nautostart=true",
        '[program:x]\ncommand=sglang serve --model-path %(ENV_M)s --tp 2 --log-level 1%%\n'
        'environment=M="Qwen/Qwen3-4B"',
        f"CUDA_VISIBLE_DEVICES=0,1 {SERVE}",
        f"CUDA_VISIBLE_DEVICES=$GPUS {SERVE}",
        "$env:N=1; $env:N = 2\nsglang serve --model-path Qwen/Qwen3-4B --tp $env:N",
        '$m = "Qwen/Qwen3-4B"\n$ENV:N="2"\nsglang serve --model-path $m --tp "${Env:N}"',
        "import os\nm = 'Qwen/Qwen3-4B'\nos.system(f'sglang serve --model-path {m} --tp 2')",
        "self.p = popen_launch_server('Qwen/Qwen3-4B', url, timeout=9, other_args=['--tp', '2'])",
        "popen_launch_server(url, model='Qwen/Qwen3-4B', other_args=['--tp', '2'])",
        "popen_launch_server('Qwen/Qwen3-4B', url, 600, None, ['--tp', '2'])",
        json.dumps({"model_path": "Qwen/Qwen3-4B", "tp_size": 2} | {f"_{i}": 0 for i in range(50)}),
    ],
)  # fmt: skip
def test_one_launch_as_it_is_pasted(text: str) -> None:
    launch = scenario_from_launch(text)
    assert launch.fields == PLAIN
    assert launch.not_modelled == ()


V1 = "SGLANG_ENABLE_SPEC_V2"
DRAFTS = "sglang serve --model-path Qwen/Qwen3-8B --speculative-algorithm DFLASH"
LISTED = json.dumps(DRAFTS.split())
OF_A_RELEASE = "lmsysorg/sglang:v0.5.9"


@pytest.mark.parametrize(
    ("text", "build"),
    [
        (f"FROM {OF_A_RELEASE}\nENV {V1}=0\nCMD {LISTED}", "v0.5.9"),
        (f"FROM {OF_A_RELEASE} AS a\nFROM a\nENV A=1 \\\n  {V1}=0\nENTRYPOINT {DRAFTS}", "v0.5.9"),
        (f"ARG T=v0.5.9\nFROM lmsysorg/sglang:$T\nENV {V1} 0\n# b\nCMD {DRAFTS}", "v0.5.9"),
        (f"[Service]\nEnvironment=\"A=b c\" {V1}=0\nExecStart=-/usr/bin/{DRAFTS}", None),
        (f"[program:a]\nenvironment=A=\"b,c\",{V1}=\"0\"\ncommand={DRAFTS}", None),
        (f"[Container]\nImage={OF_A_RELEASE}\nEnvironment={V1}=0\nExec={DRAFTS}", "v0.5.9"),
        (f"set -gx {V1} 0\n{DRAFTS}", None),
        (f"setenv {V1} 0\n{DRAFTS}", None),
        (f'$env:{V1} = "0"\n{DRAFTS}', None),
        (f"import os\nos.environ['{V1}'] = '0'\nPopen({LISTED})", None),
        (f"import os\nPopen({LISTED}, env={{**os.environ, '{V1}': '0'}})", None),
        (f"import os\nPopen({LISTED}, env=dict(os.environ, {V1}='0'))", None),
        (f'[{{"Config": {{"Image": "{OF_A_RELEASE}", "Env": ["{V1}=0"], "Cmd": {LISTED}}}}}]',
         "v0.5.9"),
        (f"env: {{{V1}: 0}}\njobs:\n  a:\n    steps:\n    - run: {DRAFTS}", None),
        (f"image:\n  repository: lmsysorg/sglang\n  tag: v0.5.9\nx:\n  command: {LISTED}\n"
         f"  env: [{V1}=0]", "v0.5.9"),
    ],
)  # fmt: skip
def test_the_environment_is_read_wherever_it_is_written(text: str, build: str | None) -> None:
    launch = scenario_from_launch(text)
    assert (launch.fields["engine_mode"], launch.build) == ("v1", build)
    assert "engine_mode" not in scenario_from_launch(text.replace(V1, "OTHER")).fields


@pytest.mark.parametrize(
    ("text", "build"),
    [
        (f"FROM {OF_A_RELEASE} AS b\nENV {V1}=0\nENTRYPOINT [\"sh\"]\nFROM mine:1\nCMD {LISTED}",
         None),
        (f"services:\n  a: {{image: mine:1, command: {LISTED}}}\n  b: {{image: {OF_A_RELEASE}}}",
         None),
        (f"FROM {OF_A_RELEASE} AS b\nENV {V1}=0\nFROM {OF_A_RELEASE}\nCMD {LISTED}", "v0.5.9"),
    ],
)  # fmt: skip
def test_another_stage_or_service_is_no_part_of_a_container(text: str, build: str | None) -> None:
    launch = scenario_from_launch(text)
    assert launch.build == build
    assert launch.fields["model"] == "Qwen/Qwen3-8B"
    assert "engine_mode" not in launch.fields


def test_units_have_the_lines_of_any_system() -> None:
    unit = f"[Service]\nEnvironment={V1}=0\nExecStart=/usr/bin/{DRAFTS}\n"
    assert scenario_from_launch(unit.replace("\n", "\r\n")).fields["engine_mode"] == "v1"


def test_an_expression_too_deep_to_print_is_a_name() -> None:
    terms = "+".join(["a"] * 1500)
    text = f"import os\nos.system(f'sglang serve --model-path Qwen/Qwen3-4B --tp {{{terms}}}')"
    with pytest.raises(UsageError, match="VALUE"):
        scenario_from_launch(text)


@pytest.mark.parametrize(
    "text",
    [
        f"[Service]\nEnvironmentFile=-/etc/a.env\nExecStart=/usr/bin/{DRAFTS}",
        f"services:\n  a:\n    env_file: [a.env]\n    command: {DRAFTS}",
        f"docker run --env-file a.env {OF_A_RELEASE} {DRAFTS}",
    ],
)
def test_a_file_of_variables_is_remarked_on(text: str) -> None:
    (remark,) = scenario_from_launch(text).remarks
    assert "a.env" in remark
    assert "not in the text" in remark


def test_the_arguments_that_a_log_tells_of_are_those_that_matter() -> None:
    told = {
        "model_path": "Qwen/Qwen3-8B", "tp_size": 2, "chunked_prefill_size": -1, "page_size": 1,
        "schedule_policy": "fcfs", "speculative_algorithm": "EAGLE3", "speculative_num_steps": 3,
        "speculative_eagle_topk": 1, "speculative_num_draft_tokens": 4, "disable_radix_cache": True,
        "torch_compile_max_bs": 32, "hicache_ratio": 2.0, "mem_fraction_static": 0.83,
        "log_level": "info", "dp_size": 1, "device": "cuda", "quantization": None,
        "triton_attention_num_kv_splits": 8, "speculative_draft_model_path": "org/head",
    }  # fmt: skip
    told |= {f"some_other_{i}": False for i in range(30)}
    text = f"server_args=ServerArgs({', '.join(f'{k}={v!r}' for k, v in told.items())})"
    launch = scenario_from_launch(text)
    assert launch.fields == {
        "model": "Qwen/Qwen3-8B", "tp": 2, "chunked_prefill_size": -1, "page_size": 1,
        "method": "eagle3", "steps": 3, "radix_cache": False, "mem_fraction_static": 0.83,
    }  # fmt: skip
    assert [name for name, _ in launch.not_modelled] == ["--speculative-draft-model-path org/head"]
    with pytest.raises(UsageError, match="--enable-dp-attention is not simulated"):
        scenario_from_launch(text.replace("dp_size=1", "dp_size=2, enable_dp_attention=True"))


def test_an_engine_in_python_is_refused_as_its_flags_are() -> None:
    with pytest.raises(UsageError, match="--lora-paths a=x is not simulated"):
        scenario_from_launch(ENGINE.replace("lora_paths=None", "lora_paths=['a=x']"))
    with pytest.raises(UsageError, match=r"--model-path \$MODEL: .* put MODEL=VALUE before"):
        scenario_from_launch(ENGINE.replace('"Qwen/Qwen3-4B"', "MODEL"))


def test_options_of_a_file_come_before_those_of_the_command(tmp_path: Path) -> None:
    path = tmp_path / "server.yaml"
    path.write_text("model-path: Qwen/Qwen3-4B\ntp-size: 4\ncuda-graph-bs: [1, 8, 64]\n")
    fields = scenario_from_launch(f"sglang serve --config {path} --tp 2").fields
    assert fields == PLAIN | {"cuda_graph_max_bs": 64}
    path.write_text("- a\n- b\n")
    for text, says in [
        (f"--config {tmp_path / 'none.yaml'}", "no such file here; put it there"),
        (f"--config={path}", "has no options in it, such as model-path: NAME"),
    ]:
        with pytest.raises(UsageError, match=says):
            scenario_from_launch(f"{SERVE} {text}")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("vllm serve Qwen/Qwen3-8B -tp 2 --max-num-seqs=64 --max-model-len 4096 "
         '--speculative-config \'{"method": "dflash", "model": "z-lab/Qwen3-8B-DFlash-b16", '
         '"num_speculative_tokens": 15}\'',
         "launches vLLM; what is simulated is SGLang. Give its command: sglang serve --model-path "
         "Qwen/Qwen3-8B --tp-size 2 --max-running-requests 64 --speculative-algorithm DFLASH "
         "--speculative-draft-model-path z-lab/Qwen3-8B-DFlash-b16 "
         "--speculative-num-draft-tokens 16."),
        ("docker run vllm/vllm-openai:v0.19 --model Qwen/Qwen3.5-4B --speculative_config "
         '\'{"method": "qwen3_next_mtp", "num_speculative_tokens": 2}\' --enforce-eager',
         "sglang serve --model-path Qwen/Qwen3.5-4B --speculative-algorithm NEXTN "
         "--speculative-num-steps 2 --speculative-eagle-topk 1 --speculative-num-draft-tokens 3 "
         "--disable-cuda-graph."),
        ("python -m vllm.entrypoints.openai.api_server \\\n --model a/b", "--model-path a/b."),
        ("vllm serve a/b --speculative-config.method eagle3 --speculative-config.model c/d "
         "--speculative-config.num_speculative_tokens=3 -dp 2 -ep",
         "--speculative-algorithm EAGLE3 --speculative-draft-model-path c/d "
         "--speculative-num-steps 3 --speculative-eagle-topk 1 --speculative-num-draft-tokens 4, "
         "which goes without -dp 2, -ep."),
        ("vllm serve a/b --cpu-offload-gb 1 -dp 1", "a/b, which goes without --cpu-offload-gb 1."),
        ("vllm serve a/b --cpu-offload-gb 0", "--model-path a/b."),
        ("vllm serve a/b -sc '{\"method\": \"ngram\"}'", "a/b, which goes without -sc."),
        ("popen_launch_server(self.model, url)", "--model-path $self.model: the text does not set"),
        ("vllm serve --tp '", "Give its command: such as sglang serve MODEL"),
        ("trtllm-serve a/b --tp_size 8", "this launches TensorRT-LLM"),
        ("python -m sgl_jax.launch_server --model-path a/b", "this launches SGLang-JAX"),
        (f"{SERVE} --gpu-memory-utilization 0.9", "nearest of SGLang is --mem-fraction-static"),
        (f"{SERVE} --speculative-algorithm NGRAM", "it drafts what followed the same words"),
        (f"{SERVE} --speculative-algorithm MTP", "SGLang calls it NEXTN. Leave it out"),
        (f"{SERVE} --speculative-algorithm STANDALONE", "with a small model of its own. These are"),
        (f"{SERVE} --speculative-algorithm EAGLE --speculative-draft-model-path a/head",
         "asks for a head of EAGLE-2, which is not simulated, and Qwen/Qwen3-4B has no native"),
        (f"{SERVE} --dp 2 --enable-dp-attention", "--enable-dp-attention is not simulated"),
        (f"CUDA_VISIBLE_DEVICES=3 {SERVE}",
         "--tp 2 is of 2 GPUs, and CUDA_VISIBLE_DEVICES=3 shows the server 1; change one of them."),
        (f"docker run -e CUDA_VISIBLE_DEVICES=0,1 {OF_A_RELEASE} {SERVE} --tp-size 4",
         "--tp-size 4 is of 4 GPUs, and CUDA_VISIBLE_DEVICES=0,1 shows the server 2"),
        (f"{SERVE} --tp $env:N", "--tp $env:N: the text does not set the variable; put $env:N=V"),
        (f"[program:x]\ncommand={SERVE} --tp %(ENV_N)s", "put N=VALUE before the command"),
        ("sglang serve --model-path {{MODEL_NAME}}", "the text does not set the variable"),
        (f"{SERVE} --chunked-prefill-size 1.5", "is not a whole number above 0, or -1; change it"),
    ],
)  # fmt: skip
def test_what_is_something_else_is_named_with_what_to_type(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        scenario_from_launch(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_counterpart_of_vllms_command_is_a_launch() -> None:
    with pytest.raises(UsageError) as caught:
        scenario_from_launch("vllm serve Qwen/Qwen3-4B --tensor-parallel-size 2")
    command = str(caught.value).partition("Give its command: ")[2].rstrip(".")
    assert scenario_from_launch(command).fields == PLAIN


def test_the_drafter_says_which_kind_of_dflash_it_is() -> None:
    text = "sglang serve Qwen/Qwen3.8-27B --speculative-algorithm DFLASH2"
    assert scenario_from_launch(text) == scenario_from_launch(text.rstrip("2"))


@pytest.mark.parametrize(
    ("path", "remarks"), [("lmsys/DeepSeek-R1-NextN", 0), ("Qwen/Qwen3.5-4B", 0), ("org/eagle", 1)]
)
def test_a_checkpoint_of_the_targets_own_layer_is_no_other_drafter(path: str, remarks: int) -> None:
    text = "sglang serve Qwen/Qwen3.5-4B --speculative-algorithm EAGLE --speculative-num-steps 3"
    launch = scenario_from_launch(f"{text} --speculative-draft-model-path {path}")
    assert len(launch.remarks) == remarks
    assert launch.fields == scenario_from_launch(text).fields


def test_a_container_that_is_not_sglangs_says_no_release() -> None:
    run = "docker run {} python3 -m sglang.launch_server --model Qwen/Qwen3-4B"
    assert scenario_from_launch(run.format("lmsysorg/sglang:v0.5.14-cu129")).build is not None
    assert scenario_from_launch(run.format("nvcr.io/x/sglang-runtime:0.8.0")).build is None


def test_prompts_that_are_not_divided_are_prefilled_whole() -> None:
    asked = {"gpu": "h100", "model": "qwen3-8b", "method": "none", "isl": 20_000, "osl": 8}
    whole = resolve(Scenario(**asked, chunked_prefill_size=-1))
    parts = resolve(Scenario(**asked, chunked_prefill_size=8192))
    assert whole.limits.chunked_prefill_size >= 20_000
    assert whole.limits.max_prefill_tokens == parts.limits.max_prefill_tokens
    # SGLang then keeps memory free for as many tokens as a batch of prompts may have.
    assert whole.memory.kv_tokens < parts.memory.kv_tokens
    as_much = resolve(Scenario(**asked, chunked_prefill_size=whole.limits.max_prefill_tokens))
    assert whole.memory.kv_tokens == as_much.memory.kv_tokens


def test_text_that_was_typed_stays() -> None:
    for text in (SERVE, "a - b", "x > y", "--flag", "it\u00b7is"):
        assert as_typed(text) == text


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/hf/hub/models--Qwen--Qwen3-8B/snapshots/1605565b47bb9346c5515c34102e054115b4f98b",
         "Qwen/Qwen3-8B"),
        ("/models/Qwen/Qwen3___5-27B/", "Qwen3.5-27B"),
        ("/mnt/ckpt/Qwen__Qwen3-8B", "Qwen/Qwen3-8B"),
        ("/shared/Qwen/Qwen3-4B/1cfa9a7208912126459214e8b04321603b3df60c", "Qwen3-4B"),
        ("./nvidia/Qwen3-8B-FP8", "Qwen3-8B-FP8"),
        ("/models/something", "/models/something"),
    ],
)  # fmt: skip
def test_a_folder_of_the_server_is_known_by_a_part_of_its_path(path: str, model: str) -> None:
    assert scenario_from_launch(f"sglang serve --model-path {path}").fields["model"] == model


def test_a_folder_without_a_name_is_known_by_the_name_it_is_served_under() -> None:
    text = "sglang serve --model-path /model --served-model-name {}"
    launch = scenario_from_launch(text.format("Qwen/Qwen3-8B"))
    assert launch.fields["model"] == "Qwen/Qwen3-8B"
    assert launch.remarks == (
        "--model-path /model (no such folder here: Qwen/Qwen3-8B, as it is served, stands in)",
    )
    assert scenario_from_launch(text.format("chat")).fields["model"] == "/model"


def test_a_launch_without_a_model_says_so() -> None:
    launch = scenario_from_launch("sglang serve --tp 2")
    assert launch.fields == {"tp": 2, "method": "none"}
    assert launch.remarks == (
        "--model-path (the text names no model: that of --model is asked about, or the default)",
    )
