"""The people of the story: their accounts, kept with the lab's data, and a fresh device for each
run.

Rules:
1. Passwords are random, made once for a data folder and kept there, 0600, so that a person can log
   in to a lab that was started again.
2. Each run logs in with a new device and a new store; at its end the device is logged out, so that
   kept rooms do not collect dead devices.
3. The clients' stores are encrypted and not in an operator's reach, so they are not searched.
"""

import secrets
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from e2ee.client import Client
from e2ee.http import MatrixRefused, Transport
from lab.certificates import write_private
from lab.topology import ServerPlan, Topology


class KeptAccount(msgspec.Struct, frozen=True):
    """A kept account: whose, where, and whether it was registered."""

    localpart: str
    server: str
    password: str
    registered: bool = False


class SavedPeople(msgspec.Struct, frozen=True):
    """The contents of `people.json`."""

    accounts: dict[str, KeptAccount] = {}


class PeopleFile:
    """The kept accounts of a lab."""

    def __init__(self, home: Path) -> None:
        """Reads the file, if there is one."""
        self.folder = home / "people"
        self.folder.mkdir(exist_ok=True, mode=0o700)
        self._path = self.folder / "people.json"
        self._accounts: dict[str, KeptAccount] = {}
        if self._path.exists():
            saved = msgspec.json.decode(self._path.read_bytes(), type=SavedPeople)
            self._accounts = dict(saved.accounts)

    def account(self, localpart: str, server: str) -> KeptAccount:
        """Returns a kept account, or a new one with a random password, not yet registered."""
        name = f"@{localpart}:{server}"
        if name not in self._accounts:
            self.keep(KeptAccount(localpart, server, secrets.token_urlsafe(9)))
        return self._accounts[name]

    def keep(self, account: KeptAccount) -> None:
        """Keeps an account."""
        self._accounts[f"@{account.localpart}:{account.server}"] = account
        write_private(self._path, msgspec.json.encode(SavedPeople(self._accounts)))

    def accounts(self) -> list[KeptAccount]:
        """Returns all kept accounts."""
        return list(self._accounts.values())


@dataclass(slots=True)
class Person:
    """A person of the story: an account and the device that is online now."""

    account: KeptAccount
    server: ServerPlan
    client: Client
    store_path: Path
    store_key: bytes

    @property
    def name(self) -> str:
        """Returns the name by which the story calls them."""
        return self.account.localpart

    @property
    def user_id(self) -> str:
        """Returns the user ID."""
        return f"@{self.account.localpart}:{self.account.server}"


class People:
    """Makes people appear, go offline and come back."""

    def __init__(
        self,
        topology: Topology,
        authority: ssl.SSLContext | None,
        *,
        connect: Callable[[ServerPlan], str | Transport] = lambda server: server.tls_url,
    ) -> None:
        """Reads the kept accounts. `connect` returns how a client reaches a server."""
        self._topology = topology
        self._authority = authority
        self._connect = connect
        self._file = PeopleFile(topology.home)
        self._present: list[Person] = []

    async def enter(self, localpart: str, server_name: str) -> Person:
        """Returns a person with a new device: registered on first use, else logged in."""
        server = self._topology.server(server_name)
        account = self._file.account(localpart, server_name)
        store_path = self._file.folder / f"{localpart}-{secrets.token_hex(4)}.sqlite"
        store_key = secrets.token_bytes(32)
        enter = Client.login if account.registered else Client.register
        try:
            client = await enter(
                self._connect(server),
                localpart,
                account.password,
                store_path=store_path,
                store_key=store_key,
                ssl=self._authority,
                device_name="the lab's story",
            )
        except MatrixRefused as refused:
            raise RuntimeError(
                f"@{localpart}:{server_name} can't log in ({refused}). If the lab's folder and its "
                "database do not belong together any more, delete the folder and start again."
            ) from refused
        self._file.keep(msgspec.structs.replace(account, registered=True))
        person = Person(account, server, client, store_path, store_key)
        self._present.append(person)
        return person

    async def go_offline(self, person: Person) -> None:
        """Closes a person's client; the device stays logged in."""
        await person.client.close()

    async def come_back(self, person: Person) -> None:
        """Opens a person's client again from its store, as after a restart of the app."""
        person.client = await Client.restore(
            store_path=person.store_path,
            store_key=person.store_key,
            base_url=self._connect(person.server),
            ssl=self._authority,
        )

    async def all_leave(self) -> None:
        """Logs every device out and deletes its store (rule 2); unreachable servers are skipped."""
        present, self._present = self._present, []
        for person in present:
            try:
                await person.client.logout()
                await person.client.close()
            except Exception as problem:  # noqa: BLE001 - the end of a story that may have failed
                del problem
            for path in person.store_path.parent.glob(person.store_path.name + "*"):
                path.unlink(missing_ok=True)

    def log_ins(self) -> list[KeptAccount]:
        """Returns the accounts that a person may log in to."""
        return [account for account in self._file.accounts() if account.registered]
