"""The lab: several homeservers on one machine, federating over verified TLS, and what one sees
there.

It imports all other packages; nothing imports it.
"""
