"""The lab: several homeservers on one machine that federate over verified TLS.

It imports all other packages; nothing imports it.
"""
