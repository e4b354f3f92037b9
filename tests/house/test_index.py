"""Any module's test is found by its room and name, or by a line of the table below.

``simulator/cost/price.py`` is tested by ``tests/simulator/cost/test_price.py``. A module without a
test file of its name is listed here beside the file whose tests cover it; so is a new one, until
it has its own.
"""

from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
ROOMS = ("api", "calibrate", "commands", "jobs", "kernels", "profiles", "realrun", "serve",
    "simulator", "studies", "ui")  # fmt: skip
NOT_SHIPPED = {"gallery", "training"}  # scripts, which tests of their own run

# A test file, and what it covers: names in its own room, or in the room before the colon.
COVERED = {
    "calibrate/launches/test_forms": [
        "environment flags manifest router words server_flags",
    ],
    "calibrate/launches/test_wrappings": [
        "options other_engines pasted server_args docker_file service_units python_strings",
        "calibrate/observations: launch_fields launch_methods launch_override",
    ],
    "calibrate/launches/test_scripts": ["shell_tests shell_text shell_values"],
    "calibrate/launches/test_python": ["python_text"],
    "calibrate/launches/test_open_scripts": ["shell_flow"],
    "calibrate/readers/test_found_files": ["console_text"],
    "calibrate/readers/test_sessions_and_dates": ["trace_sessions", "studies/plan: over_long"],
    "calibrate/readers/test_trace_texts": ["agent_sessions"],
    "api/test_question": ["studies/ask: names"],
    "api/test_result": ["frames rows show"],
    "api/test_same_as_cli": [
        "compare explain files fit lists plan predict sweep crossover",
        "studies/compare: compare_question",
        "studies/sweep: job",
    ],
    "calibrate/compare/test_compare": [
        "causes change_search common_definitions gap own_acceptance trials",
        "commands: compare",
        "studies/compare: compare_page compare_report",
    ],
    "calibrate/fit/test_fit": [
        "gaussian identifiability parallel_answers prior residual_patterns rows verdict",
        "commands: calibrate",
        "studies/compare: fit_page fit_question",
    ],
    "calibrate/fit/test_held_out": [
        "commands: validate",
        "studies/compare: validate_question validation_report validation_tables",
        "studies/published: fit_tables",
    ],
    "calibrate/live/test_experiment": ["acceptance client target"],
    "calibrate/measure/test_measure": [
        "clock collectives machine op_cases partial_file pass_list passes subject subjects",
        "commands: measure",
        "studies/compare: profile_page profile_ratio",
    ],
    "calibrate/readers/test_readers": [
        "aiperf csv_table files guidellm inferencex read sglang_bench_serving",
        "sglang_metrics sglang_one_batch sglang_request_metrics sglang_server_info tools",
        "vllm_bench_serve",
        "calibrate/observations: check conditions hints json_records lengths observation",
        "calibrate/observations: row_filter values",
    ],
    "calibrate/readers/test_other_forms": [
        "other_clients",
        "calibrate/observations: headings text_tables",
    ],
    "calibrate/readers/test_request_traces": ["request_trace_formats"],
    "calibrate/realloop/test_loop": [
        "directed_workers engine_sheet forecast outcomes rehearsal",
        "commands: validate_real",
        "studies/real: loop_question",
        "studies/compare: real_tables",
    ],
    "calibrate/silicon/test_import_tables": ["families gemm_curve source table"],
    "calibrate/silicon/test_suspects": [
        "caches experts latent products thinning",
    ],
    "commands/test_cli": [
        "listing options predict scenario_options",
        "profiles: presets",
        "studies/ask: answers question",
        "studies/predict: answer_lines memory page table",
        "studies/show: figures files sheet_lists terminal titles",
    ],
    "jobs/test_endings": ["processes worker"],
    "trust/test_kills": ["jobs: stopping"],
    "jobs/test_pool": ["crew supervisor"],
    "kernels/layers/test_checkpoint": ["shard spec"],
    "kernels/models/test_blocks": ["block_heads", "kernels/layers: convolution"],
    "kernels/models/test_passes": ["target", "kernels/layers: attention decoder gdn mlp"],
    "kernels/models/test_drafter": ["cycle", "kernels: cache"],
    "kernels/models/test_ranks": ["kernels: comm rank"],
    "kernels/models/test_triton": ["kernels: backend", "kernels/reference: backend"],
    "kernels/triton/test_moe": ["configs", "kernels: heap"],
    "kernels/triton/test_compile_check": ["compile_cases launch"],
    "profiles/releases/test_calibration": ["server_levels"],
    "profiles/releases/test_engine_sheet": ["engine_records memory_rules"],
    "profiles/test_profiles": ["find load quantity_sheet sheets units"],
    "profiles/test_checkpoints": ["profiles/quantization: suffixes untimed"],
    "profiles/networks/test_quantized": [
        "profiles/quantization: module_names projections statements"
    ],
    "profiles/networks/test_networks": [
        "attention hf_config layers mlps recurrent vision weight",
    ],
    "profiles/networks/test_known_families": [
        "drafters families fields mixed_windows nemotron read_mixers read_mlps",
    ],
    "profiles/times/test_op_tables": [
        "attention_table gemm_table interpolation op_file op_folder timing"
    ],
    "profiles/times/test_quantised_tables": ["experts_table"],
    "realrun/test_command": [
        "realrun/job: grown",
        "commands: run",
        "studies/real: run_question torch_needed",
        "calibrate/observations: acceptance_records",
    ],
    "realrun/test_ranks": ["realrun/worker: comm cores process"],
    "realrun/test_summary": ["launch row", "realrun/job: journal"],
    "realrun/job/test_setup": ["networks prompts requests"],
    "realrun/scheduler/test_faults": ["crew torchrun", "realrun/job: faults"],
    "realrun/scheduler/test_scheduler": [
        "batching pools",
        "realrun/job: messages",
        "realrun/worker: null_worker worker",
    ],
    "realrun/worker/test_chains": ["device executor methods", "kernels/models: chains"],
    "realrun/worker/test_gpu": ["realrun/job: graphs"],
    "simulator/test_memory": ["defaults setup"],
    "simulator/test_row": ["caveats predict published scenario", "profiles: schema"],
    "simulator/test_draft_shape": ["simulator/requests: tree_lengths"],
    "simulator/test_whatif": ["faster_gpu"],
    "simulator/test_slopes": ["intervals trial", "profiles: priors"],
    "simulator/cost/test_measured": ["profiles/times: machine_profile"],
    "simulator/cost/test_methods": ["block_methods cycle"],
    "simulator/cost/test_passes": ["layers ops"],
    "simulator/cost/test_price": ["parts step_table"],
    "simulator/test_number_formats": ["simulator/cost: op_formats", "scale_blocks"],
    "simulator/engine/test_radix_cache": ["simulator/requests: prompts"],
    "simulator/engine/test_again": ["rough_clock walk walk_overlapped"],
    "simulator/engine/test_leap": ["leap_clock", "leap_memory"],
    "simulator/engine/test_metrics": ["records"],
    "simulator/fleet/test_conversations": ["routers", "profiles/releases: routers"],
    "simulator/fleet/test_fleet": ["replica"],
    "simulator/policy/test_policy": [
        "adaptive_engine draft_budget ema_ladder interface parse",
        "profiles: policies",
        "simulator/cost: width_tables",
    ],
    "simulator/test_asked_acceptance": ["profiles/releases: sampled_rows"],
    "simulator/requests/test_laws": ["draws expected parse"],
    "simulator/requests/test_published_lengths": ["inferred"],
    "studies/crossover/test_crossover": [
        "advice axis page paste places question report rows search server",
        "commands: crossover",
    ],
    "studies/explain/test_explain": [
        "break_even burden elasticities page replay report step_anatomy waterfall",
        "commands: explain",
    ],
    "studies/plan/test_verdict": [
        "choice deploy difference hours",
        "studies/show: launch",
    ],
    "studies/plan/test_most": ["most_page most_report", "api: carried"],
    "studies/predict/test_beside": ["lift report", "studies/ask: slots", "studies/sweep: ending"],
    "serve/test_process": ["server", "commands: serve"],
    "serve/test_real": ["tokens", "studies/real: serve_question"],
    "serve/test_template": ["render"],
    "serve/test_routes": ["app backend bodies information metrics streams twin"],
    "studies/live/test_question": ["kept page"],
    "studies/live/test_watch": ["calibrate/live: window"],
    "studies/plan/test_plan": [
        "candidate close_look demand judge objective page question rows search",
        "commands: plan",
    ],
    "studies/published/test_dspark_frontier": ["profiles: dspark_published"],
    "studies/published/test_gallery": ["exhibit findings", "studies/show: plain_table"],
    "studies/published/test_gh200": [
        "gh200_causes gh200_loop gh200_page gh200_phases",
        "profiles: phases",
    ],
    "studies/published/test_serving_rows": ["calibrate/observations: servers"],
    "studies/published/test_servers": ["servers_judged", "servers_tables", "level_spread"],
    "studies/published/test_published": ["cards_tables", "studies/show: frame_table"],
    "studies/show/test_html_report": ["chart_style charts error_charts narrow_table styles"],
    "studies/sweep/test_sweep": [
        "folder lock progress rows run workers",
        "commands: sweep",
        "studies/ask: study",
    ],
    "studies/trace/test_perfetto": ["simulated", "commands: trace"],
    "ui/test_browser": ["callbacks page panel"],
    "ui/test_charts": ["answer bars copies curves drawing meanings remedies view"],
    "ui/test_controls": ["room"],
    "ui/test_desk": ["hand", "jobs: leaving"],
    "ui/test_server": ["commands: ui"],
    "kernels/layers/test_latent": ["kernels/reference: routing"],
    "profiles/networks/test_latent": ["mla"],
    "simulator/cost/test_latent": ["decoder latent_ops latent_price mla_layers"],
}


def modules() -> list[str]:
    """Every module of the package, such as ``simulator/cost/price``."""
    paths = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    return sorted(
        path.relative_to(ROOT).with_suffix("").as_posix()
        for path in paths
        if path.stem != "__init__" and not NOT_SHIPPED & set(path.parts)
    )


def own_test(module: str) -> Path:
    room, _, name = module.rpartition("/")
    return TESTS / room / f"test_{name}.py"


def listed(test: str) -> list[str]:
    """The modules that the table says a test file covers."""
    found = []
    for line in COVERED[test]:
        room, colon, names = line.rpartition(":")
        room = room if colon else test.rpartition("/")[0]
        found += [f"{room}/{name}" for name in names.split()]
    return found


IN_TABLE = Counter(module for test in COVERED for module in listed(test))


def test_every_module_is_tested_by_its_name_or_by_the_table() -> None:
    missing = [m for m in modules() if not own_test(m).is_file() and m not in IN_TABLE]
    assert missing == [], "write a test file of its name, or say in COVERED which covers it"


@pytest.mark.parametrize("test", COVERED)
def test_the_table_names_what_there_is(test: str) -> None:
    assert (TESTS / f"{test}.py").is_file()
    there = modules()
    assert [m for m in listed(test) if m not in there] == []
    assert [m for m in listed(test) if own_test(m).is_file()] == [], "it has its own file now"


def test_the_table_names_each_once() -> None:
    assert len(modules()) > 200
    assert [m for m, times in IN_TABLE.items() if times > 1] == []
