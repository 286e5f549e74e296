"""Joins the server: the only package that creates its objects.

Rules:
1. It decides nothing: it constructs objects, each from the ones before, and hands them over. An
   `if` is on the configuration alone; what decides, asks or may fail is in the layers below
   (tests/architecture/test_app.py holds this).
2. `domains` has one module for each domain, with makers of its services and its endpoints;
   `engine` makes what all of them stand on, `services` and `routes` join them, `server` starts and
   stops the whole in order.
3. Tests make their servers from the same makers, with stores, clocks, random bytes and other
   servers of their own.
"""
