"""Every number that bounds what a client, the database or the disk can make this server do.

1. One constant a line, units last in the name; the reason for the number stands beside it.
2. A limit belongs to the module of its noun; all are read here: `limits.NAME`.
3. A limit is used by the code and named by a test (tests/architecture/test_limits.py).
"""

from homeserver.limits.accounts import *
from homeserver.limits.appservices import *
from homeserver.limits.encryption import *
from homeserver.limits.federation import *
from homeserver.limits.history import *
from homeserver.limits.http import *
from homeserver.limits.identity import *
from homeserver.limits.mail import *
from homeserver.limits.media import *
from homeserver.limits.membership import *
from homeserver.limits.pictures import *
from homeserver.limits.presence import *
from homeserver.limits.previews import *
from homeserver.limits.processes import *
from homeserver.limits.push import *
from homeserver.limits.pushers import *
from homeserver.limits.relations import *
from homeserver.limits.rooms import *
from homeserver.limits.search import *
from homeserver.limits.spaces import *
from homeserver.limits.sso import *
from homeserver.limits.storage import *
from homeserver.limits.sync import *
