"""Limits of a process: its start, its failing tasks and its stop."""

METRIC_SERIES = 3_000
"""Series of one metric, of some 4 KiB each; a label with values from outside must not fill the
memory."""

SUPERVISOR_STOP_S = 2
"""How long a stop waits for cancelled tasks; a stop takes under 5 s in all."""

RESTART_WAIT_S_LEAST = 0.5
"""Wait before a failed task is started again; doubles with each failure."""

RESTART_TRACES = 3
"""Failures in a row of which a task's traceback is logged; further ones are logged as a line."""

RESTART_WAIT_S_MOST = 15.0
"""Longest wait before a failed task is started again, so that delivery to other servers resumes
soon after an outage of the database."""

SERVER_STOP_S = 0.5
"""How long a stop waits for requests in progress; the remaining ones are then cancelled."""

OPEN_FILES = 1_048_576
"""The soft limit of open files is raised to the hard one at the start, at most to this."""

STOP_S = 2.5
"""How long all steps of a stop after the sockets' may take together; a stop takes under 5 s."""

STOP_STEP_S_MIN = 0.1
"""How long each step of a stop may take even if the others took all the time: a step that needs no
waiting is done."""

LOG_CLOSE_S = 2
"""How long a stop waits for accepted changes to be stored."""

HANDSHAKE_ROUNDS = 10
"""Rounds of messages in the check of the certificate's TLS handshake; TLS 1.3 takes two."""

MALLOC_OWN_BLOCK_BYTES = 1024 * 1024
"""Blocks of memory from this size on are the system's again once they are freed: answers, images
and password hashes."""

MALLOC_KEPT_BYTES = 4 * 1024 * 1024
"""Freed memory that is kept for the next use, of each of the few arenas: pieces of media that are
on their way."""
