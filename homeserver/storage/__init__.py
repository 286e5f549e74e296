"""All SQL, and the only place that talks to PostgreSQL.

Functions work over an open transaction that the caller owns; each table has one owning module. The
schema grows by numbered, forward-only migrations. `embedded` runs a PostgreSQL of our own where the
operator brings none.
"""
