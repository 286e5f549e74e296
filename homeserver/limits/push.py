"""Limits of push rules: their number and size, and the work that one event costs."""

PUSH_RULES_PER_USER = 1_000
"""A user's own rules of all kinds: clients make one for each keyword, and each room with a
setting."""

PUSH_RULES_BYTES = 128 * 1024
"""The JSON of a user's own rules; all of it goes into a sync whenever one changes."""

PUSH_RULE_ID_BYTES = 255
"""A rule's ID: that of a room or a user, or one that a client chose."""

PUSH_PATTERN_CHARACTERS = 512
"""A pattern of a rule, or the path of a property: a keyword, an ID, at most a phrase."""

PUSH_CONDITIONS_PER_RULE = 32
"""Conditions of one rule; clients use up to three."""

PUSH_ACTIONS_PER_RULE = 16
"""Actions of one rule; clients use up to three."""

PUSH_MATCH_STEPS = 8_000_000
"""Comparisons of characters that the patterns of one user's rules may cost with one event, some 10
ms in the worst case. Further patterns don't match. 25 keywords of 10 characters reach it in a text
of 32,000 characters that contains all of them nearly everywhere."""

PUSH_RULESETS_COMPILED = 5_000
"""Distinct rulesets that are kept compiled, some 10 KB each."""

PUSH_AUDIENCES_BYTES = 64 * 1024 * 1024
"""Memory of the rooms whose members are kept by their rules; others are read again."""

PUSH_AUDIENCE_MEMBER_BYTES = 100
"""What one member of such a room takes, roughly."""

PUSH_RELATIONS_FOLLOWED = 3
"""Relations that are followed to find an event's thread (spec)."""

PUSH_EVENTS_UNSUMMED = 200
"""Events of a room that are counted when they are read. Then they are added to the counts of all
members at once: in a room of 2,000, ten rows are written for each event."""

PUSH_EVENTS_UNSUMMED_IN_ALL = 20_000
"""Such events of all rooms, some 10 MB; beyond it the room with the oldest is summed."""

PUSH_KEPT_LEAST = 1_000
"""The least that may be kept of a room: more than its events that are counted when they are read,
and than a user reads of one room in the list of notifications."""

PUSH_KEPT_MOST = 1_000_000
"""The most, a few hundred MB of one room."""

PUSH_KEPT_DEFAULT = 2_000
"""Events that notified somebody, kept of each room, some 300 bytes each."""

PUSH_OLD_PRUNE_S = 3_600.0
"""The interval of deleting others."""

PUSH_ROOMS_PRUNED_AT_ONCE = 100
"""Rooms whose others are deleted together."""

PUSH_STATES_CACHED = 5_000
"""Users in rooms, whose marks and counts are in memory since they last read or spoke there."""

PUSH_USERS_CACHED = 5_000
"""Users whose counts are in memory: those who sync. A user with 5,000 unread rooms takes 1 MB."""

PUSH_ENTRIES_AT_ONCE = 500
"""Entries of the log whose effects are stored together."""

PUSH_ENTRIES_IN_A_ROW = 16
"""Of these, those that are evaluated without a break: in a large room with many distinct rules one
takes a millisecond."""

PUSH_PAUSE_S = 0.1
"""The time for which entries gather while nobody waits for their counts. It is the most by which a
push is later than its event."""

PUSH_STORE_S = 5.0
"""The time after which counts are stored. Until then they are only in memory, and a start would
make them again."""

PUSH_POSITIONS = 1_000
"""Positions of the log after which counts are stored in any case, so that a start has little to
read, or their position though no count has changed."""

PUSH_WAIT_S = 10.0
"""The longest wait for the counts of a sync, or before a rule is changed. Past it the follower has
stopped, and the counts that are known are sent."""

PUSH_RETRY_S = 1.0
"""The pause after the database was away."""

PUSH_REPLAYED_EVENTS = 5_000
"""Events of a room that are counted after a restart: those since the stored position, usually few.
Of more, the newest."""
