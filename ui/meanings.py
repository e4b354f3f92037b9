"""The colours of the page: each means one thing, in every chart, by day and night.

They are names of the house's stylesheet, which the browser looks up.
"""

ASKED = "var(--series-1)"  # the answer to what is asked
PLAIN = "var(--muted)"  # plain decoding
MEASURED = "var(--ink)"  # what somebody measured
TARGET = "var(--series-6)"  # the large network: verification, its weights
DRAFTER = "var(--series-2)"  # the small one: drafts, its weights
STATES = "var(--series-3)"  # recurrent states: commits, slots
CACHE = "var(--series-4)"  # keys and values: injection, cache
HOST = "var(--series-5)"  # the scheduler's process
REST = "var(--axis)"  # whatever is left

# Phases of a cycle in their order: a field of the result schema, what it is called, its colour.
PHASES = (
    ("draft_ms", "draft", DRAFTER),
    ("verify_ms", "verify", TARGET),
    ("commit_ms", "commit", STATES),
    ("materialise_ms", "materialise", CACHE),
    ("other_ms", "outside graphs", REST),
    ("host_exposed_ms", "exposed host", HOST),
)
