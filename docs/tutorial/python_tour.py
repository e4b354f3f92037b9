# %% [markdown]
# # A tour of the Python API
#
# Everything the command line answers, as objects and data frames. The cells of this notebook are
# those of `python_tour.py`; `make docs` runs them.

# %%
from pathlib import Path
from tempfile import mkdtemp

import pandas as pd
import plotly.express as px

import dflash_sim as ds

# %% [markdown]
# ## One prediction
#
# Keywords are the fields of a scenario, by the names of `dflash-sim predict`. What is left out
# takes its default. One answer is a `Result`: every field of the
# [result schema](../reference/results.md) is an attribute.

# %%
server = {"model": "qwen3-8b", "gpu": "b200", "tp": 1}
prompts = {"dataset": "gsm8k", "thinking": False, "num_prompts": 128}
result = ds.predict(**server, **prompts, block=16, conc=8)
result

# %%
low, high = result.interval("output_throughput")
f"{result.output_throughput:,.0f} tok/s ({low:,.0f} to {high:,.0f}), {result.speedup:.2f} x plain"

# %% [markdown]
# ## A sweep
#
# Several values of a field, as a list, a range or text such as `"1-64:x2"`, make a data frame with
# a row for each combination. `ds.sweep` takes any number of points, several processes (`jobs`), and
# a folder in which it goes on where it was stopped.

# %%
swept = ds.sweep(**server, **prompts, block=[4, 8, 16], conc="1-64:x4", runs=1)
swept[["block", "max_concurrency", "output_throughput", "speedup", "accept_length"]].round(2)

# %% [markdown]
# ## A plot of one's own
#
# Intervals are columns of numbers: `<name>_low` and `<name>_high`.

# %%
plotted = swept.assign(
    up=swept["speedup_high"] - swept["speedup"],
    down=swept["speedup"] - swept["speedup_low"],
    block=swept["block"].astype(str),
)
figure = px.line(
    plotted,
    x="max_concurrency",
    y="speedup",
    color="block",
    error_y="up",
    error_y_minus="down",
    log_x=True,
    markers=True,
    labels={"max_concurrency": "requests in flight", "speedup": "speed-up over plain decoding"},
    title="What a block is worth, qwen3-8b on one B200",
    template="simple_white",
)
figure

# %% [markdown]
# ## A benchmark beside its prediction
#
# `ds.compare` reads the files of the usual benchmark tools, or a data frame. **The numbers below
# are made up** for this tour: they stand for the file of a server whose steps take a fifth longer
# than predicted.

# %%
made_up = pd.DataFrame(
    {
        "model": "qwen3-8b",
        "method": ["none", "dflash", "dflash"],
        "block": [1, 16, 16],
        "gpu": "b200",
        "tp": 1,
        "dataset": "gsm8k",
        "thinking": "no",
        "max_new_tokens": 4096,
        "num_prompts": 128,
        "conc": [8, 1, 8],
    }
)
asked = [ds.predict(**server, **prompts, method=m, conc=c, interval=False, baseline=False)
         for m, c in zip(made_up["method"], made_up["conc"], strict=True)]  # fmt: skip
made_up["output_throughput"] = [each.output_throughput / 1.2 for each in asked]
made_up["mean_tpot_ms"] = [each.mean_tpot_ms * 1.2 for each in asked]
made_up["accept_length"] = [each.row.get("accept_length") for each in asked]
benchmark = Path(mkdtemp()) / "made_up.csv"
made_up.to_csv(benchmark, index=False)

compared = ds.compare(benchmark)
compared

# %%
compared.rows[
    ["row", "method", "max_concurrency", "observed_output_throughput",
     "predicted_output_throughput", "output_throughput_error"]
].round(3)  # fmt: skip

# %%
compared.causes[["row", "cause", "share", "meaning"]].round(3)

# %% [markdown]
# ## Constants of one's own
#
# A fit makes the engine's constants follow the measurements; every question takes it as its
# calibration. `save` keeps it for `dflash-sim predict --calibration`.

# %%
throughputs = made_up.drop(columns=["mean_tpot_ms", "accept_length"])
mine = ds.fit(throughputs, name="mine")
learned = mine.constants.sort_values("learned", ascending=False).head(4)
learned[["kind", "key", "prior", "value", "learned"]].round(6)

# %%
before, after = (ds.predict(**server, **prompts, conc=16, calibration=c) for c in ("shipped", mine))
pd.concat([before.to_frame(), after.to_frame()]).set_index("calibration")[
    ["output_throughput", "output_throughput_low", "output_throughput_high"]
].round(0)

# %% [markdown]
# ## A fleet
#
# Which servers keep a time per token of 8 ms and a first token within 500 ms, for 40 requests a
# second?

# %%
plan = ds.plan(
    model="qwen3-8b", isl=1000, osl=400, acceptance="al:5", gpu=["b200", "h200"], tp=[1, 2],
    rate=40, ttft=500, tpot=8, duration=60, runs=1,
)  # fmt: skip
plan.fleets[["role", "gpu", "tp", "method", "replicas", "num_gpus", "usd_per_hour_typical"]]

# %% [markdown]
# ## Mistakes are told in one line

# %%
try:
    ds.predict(gpu="b200", dataset="humanevl")
except ds.UsageError as error:
    mistake = str(error)
mistake
