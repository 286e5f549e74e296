"""Bounds on what is waited for and kept of PostgreSQL's programs.

Each names its unit and its end. What takes longer is an error that says so, or a harder order.
"""

CONNECT_S_MAX = 10.0  # of one connection to a postmaster that runs
STALE_S_MAX = 30.0  # until a postmaster that an earlier server left has ended
START_RETRY_S_MAX = 15.0  # an unreaped process or its shared memory may be seen for a moment
RECOVERY_REPORT_S = 5.0  # crash recovery has no limit while the postmaster lives, but is reported
FAST_STOP_S_MAX = 20.0  # of the clean order, which writes a checkpoint
HARD_STOP_S_MAX = 5.0  # of each harder one
RESTART_S_MIN = 0.1  # before a postmaster that ended by itself is started again; then doubling
RESTART_S_MAX = 30.0
INITDB_S_MAX = 120.0  # a slow disk takes a minute
VERSION_S_MAX = 20  # of a program that only says its version
PROCESS_LIST_S_MAX = 5  # of the system's list of processes
LOCK_S_MAX = 10.0  # a predecessor may still be stopping
LOG_BYTES_MAX = 8 * 1024 * 1024  # of the log; past it, it is kept once more and begun anew
LOG_TAIL_LINES = 12  # of the log, shown with an error
PID_BYTES_MAX = 20  # of a lock file: one number
SOCKET_PATH_BYTES_MAX = 107  # of sockaddr_un, without the closing NUL

POLL_S = 0.01  # between two looks at a process that ends
LOCK_POLL_S = 0.05  # at a lock
PROGRAM_POLL_S = 0.1  # at a program that may take long
START_POLL_S = 0.2  # at a postmaster that starts
