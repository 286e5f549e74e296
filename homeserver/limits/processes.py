"""Limits of a process: its start, the tasks that fail in it and its stop."""

METRIC_SERIES = 20_000
"""Series of counters and timers; a label with values from outside must not fill the memory."""

SUPERVISOR_STOP_S = 2
"""How long a stop waits for cancelled tasks; a stop takes under 5 s in all."""

RESTART_WAIT_S_LEAST = 0.5
"""Wait before a failed task is started again; doubles with each failure."""

RESTART_TRACES = 3
"""Failures in a row of which a task's traceback is logged; of further ones a line is."""

RESTART_WAIT_S_MOST = 15.0
"""Longest wait before a failed task is started again: after an outage of the database, delivery to
other servers goes on so soon."""

SERVER_STOP_S = 0.5
"""How long a stop waits for requests that are being answered; those that wait are then cut."""

OPEN_FILES = 1_048_576
"""The soft limit of open files is raised to the hard one at the start, at most to this."""

STOP_S = 2.5
"""How long all steps of a stop after the sockets' may take together; a stop takes under 5 s."""

LOG_CLOSE_S = 2
"""How long a stop waits for what was accepted to be stored."""
