"""Limits of thumbnails and of what reads pictures and pages: the sandbox."""

SANDBOX_MEMORY_BYTES = 768 * 1024 * 1024
"""Address space of a process that reads one picture or page: some 130 MiB are the interpreter and
the libraries, and a picture of `THUMBNAIL_PIXELS` takes 256 MiB, twice while it is converted."""

SANDBOX_CPU_S = 20
"""CPU time of one such process; a large photograph takes 0.3 s, an animation a few seconds."""

SANDBOX_LOOK_CPU_S = 1
"""CPU time of a process that reads a page, or the header of a picture: some 20 ms. Markup can be
such that the parser's time grows with its square."""

SANDBOX_WALL_S = 60.0
"""How long such a process may live, the arrival of its input counted."""

SANDBOX_END_S = 10.0
"""How much longer an answer is waited for before all of the sandbox is ended."""

SANDBOX_START_S = 60.0
"""How long the sandbox may take to start: 0.2 s, but on a machine with much other work."""

SANDBOX_ORDER_BYTES = 16 * 1024
"""The line that says what is to be done."""

SANDBOX_OUTCOME_BYTES = 1024 * 1024
"""The line that says what came of it: the metadata of a page are the longest."""

SANDBOX_RESULT_BYTES = 32 * 1024 * 1024
"""What a process may give back: an animation of `THUMBNAIL_FRAMES_PIXELS` stays far below."""

SANDBOX_PART_BYTES = 256 * 1024
"""What is read from a sandbox's process at once."""

SANDBOX_NICENESS = 5
"""How much the sandbox yields to the server: pictures can wait, syncs can't."""

SANDBOX_FAILURES = 1_000
"""Pictures whose processing failed that are remembered."""

SANDBOX_FAILURE_S = 600.0
"""How long it is remembered that a picture can't be processed: asking again costs nothing then."""

THUMBNAILS_AT_ONCE = 2
"""Pictures processed at once by default, each within `SANDBOX_MEMORY_BYTES`."""

THUMBNAILS_WAITING = 1_000
"""Thumbnails that wait, of all users; each is a request and no more."""

THUMBNAILS_WAITING_OF_CAUSE = 200
"""Thumbnails that wait for one user: a client that shows a gallery asks for so many."""

THUMBNAILS_RETRY_AFTER_S = 5
"""Told with a 429 when too many wait."""

THUMBNAIL_SIDE = 65_535
"""The longest side that is asked for; longer ones are taken as this. JPEG has no longer sides."""

THUMBNAIL_SIZES = 16
"""Sizes in the configuration, each of which is computed and kept once for each picture."""

THUMBNAIL_SOURCE_BYTES = 100 * 1024 * 1024
"""The largest file that is read for a thumbnail: it is in the process's memory as a whole."""

THUMBNAIL_PIXELS = 64_000_000
"""Pixels of a picture that is decoded: what telephones take, save for a few."""

THUMBNAIL_FRAMES = 500
"""Frames of an animation that stays one; longer ones become a still."""

THUMBNAIL_FRAMES_SOURCE_PIXELS = 400_000_000
"""Pixels of all frames together that are decoded: some 3 s."""

THUMBNAIL_FRAMES_PIXELS = 40_000_000
"""Pixels of all frames of an animated thumbnail, 160 MiB while it is made."""

THUMBNAIL_REDUCING_GAP = 2.0
"""How much larger than the thumbnail a picture still is after the first, quick step of shrinking:
`Image.thumbnail` has the same, at which no difference is to be seen."""

THUMBNAIL_PROFILE_BYTES = 64 * 1024
"""A colour profile that goes along with a thumbnail; larger ones are left out."""
