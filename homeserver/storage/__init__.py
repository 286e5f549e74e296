"""All SQL, and the only package that accesses PostgreSQL.

Functions work over an open transaction that the caller owns; each table has one owning module. The
schema grows by numbered, forward-only migrations. The package `local_postgres` runs a PostgreSQL if
the operator provides none.
"""
