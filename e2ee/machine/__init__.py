"""The decisions of an end-to-end-encrypting client. Pure: no I/O, no clock; the ratchets draw their
own keys.

Push sync in, pull requests out, acknowledge. `machine.Machine` is the façade; `changes` says what
must be saved before anything derived from it may be sent.
"""
