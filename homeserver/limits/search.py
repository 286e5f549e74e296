"""Limits of the search for messages."""

SEARCH_TERM_CHARACTERS = 500
"""What is searched for; longer texts are pasted ones, which nobody means to find."""

SEARCH_WORDS = 20
"""Words of a search, counting each run of a script that writes no spaces."""

SEARCH_TEXT_CHARACTERS = 16_384
"""The beginning of a text that is searched: an event has at most four times as many bytes."""

SEARCH_WORD_CHARACTERS = 64
"""The beginning of a word that counts."""

SEARCH_TERMS = 2_000
"""Terms under which one text is indexed: a long message in an unspaced script has as many."""

SEARCH_PREFIX_CHARACTERS = 3
"""From this length on a word finds those that begin with it: shorter ones begin too many."""

SEARCH_RESULTS_DEFAULT = 10
"""Results of a page, if the filter has no limit."""

SEARCH_RESULTS = 100
"""At most; each may have its context."""

SEARCH_CONTEXT_DEFAULT = 5
"""Events before a result, and as many after it, if a context is asked for without numbers."""

SEARCH_CONTEXT = 20
"""At most on either side: with the most results these are 4,000 events."""

SEARCH_GROUPINGS = 2
"""The specification has two."""

SEARCH_CANDIDATES = 50
"""Entries of the index that are read at once; the reader may not be allowed to see some."""

SEARCH_CANDIDATES_MAX = 1_000
"""Entries that one request looks at; then it answers with what it has, and a token."""

SEARCH_RANKED = 200
"""The newest results, which are brought into an order by rank; older ones aren't ranked."""

SEARCH_TOKEN_CHARACTERS = 1_000
"""A token: a place, and an identifier of 255 bytes."""

SEARCHES_AT_ONCE = 4
"""Searches under way: each uses a connection of the database's pool."""

SEARCH_S = 10.0
"""The time of a statement that searches; common words of huge rooms may take it."""

SEARCH_POSITIONS = 1_000
"""Positions of the log that are indexed in one transaction, and after how many new ones the index
is brought up to date, though nobody searches."""

SEARCH_POSITIONS_AWAITED = 5_000
"""What a search waits for: an index that is further behind is searched as it is."""

SEARCH_STATE_BYTES = 16 * 1024 * 1024
"""States of rooms in one answer; those of further rooms are left out."""

SEARCH_SLICE_CHARACTERS = 16_384
"""Characters that are cut into words before others have their turn: some milliseconds."""

SEARCH_RETRY_S = 10.0
"""When the index is brought up to date again after the database was away."""
