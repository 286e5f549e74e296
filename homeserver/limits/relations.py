"""Limits of related events: aggregations, children of an event, threads."""

REFERENCES_BUNDLED = 300
"""References that are bundled with one event, the oldest ones; the votes of a large poll are read
page by page."""

RELATED_READ = 100
"""Children that are read at a time to find the newest one that a reader may see."""

RELATED_READS = 10
"""How often more children are read for that; then nothing is bundled."""

RELATIONS_DEPTH = 3
"""Relations that are followed from an event to its indirect children (the spec's least)."""

RELATIONS_RECURSED = 20_000
"""Indirect children that are sorted for one page; of an event with more, a page has the direct ones
alone, and says so (`recursion_depth`)."""

THREADS_LISTED = 100
"""Threads in one page of a room's threads: each is counted."""

THREAD_READS = 10
"""How often more threads are read for one page; then it ends early, and the next one continues
there."""

ANNOTATIONS_PER_USER = 100
"""Annotations of one type that a user of ours sends to one event: each further one is compared with
all of them."""

GROUPS_DECIDED = 500
"""Groups of children, by the states that they were sent in, whose visibility is decided for one
answer: each state is read. Readers who came before the children need none."""
