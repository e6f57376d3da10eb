"""Reads an archive with slixmpp: usage slix_mam.py STARTTLS-PORT PASSWORD USER OTHER (USER has an archive)."""

import asyncio
import datetime
import sys

from slixmpp.exceptions import IqError

from slix_base import PATIENCE, Base

USER, OTHER = sys.argv[3:]


class Client(Base):
    """A client that speaks of archives."""

    def __init__(self, user):
        super().__init__(user, "slix")
        self.messages, self.mine = asyncio.Queue(), asyncio.Event()
        for plugin in ("xep_0030", "xep_0313", "xep_0359", "xep_0441"):
            self.register_plugin(plugin)
        self.add_event_handler("message", self.messages.put_nowait)
        self.add_event_handler("presence_available", lambda presence: self.mine.set())

    async def open(self):
        await super().open()
        await asyncio.wait_for(self.mine.wait(), PATIENCE)
        return self

    async def message(self):
        return await asyncio.wait_for(self.messages.get(), PATIENCE)


def body(result):
    return result["mam_result"]["forwarded"]["stanza"]["body"]


async def bodies(results):
    return [body(result) async for result in results]


async def main():
    ours, theirs = [await Client(user).open() for user in (USER, OTHER)]
    mam = ours["xep_0313"]

    info = await ours["xep_0030"].get_info(jid=ours.boundjid.bare)
    features = info["disco_info"]["features"]
    assert {"urn:xmpp:mam:2", "urn:xmpp:mam:2#extended", "urn:xmpp:sid:0"} <= features, features

    prefs = ours["xep_0441"]
    await prefs.set_preferences("always", always=[], never=["nobody@localhost"])
    default, always, never = await prefs.get_preferences()
    assert (default, list(always), [str(jid) for jid in never]) == ("always", [], ["nobody@localhost"]), (default, never)

    start = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=1)
    ids, expected = [], []
    for index in range(25):
        sender, recipient = (theirs, ours) if index % 2 else (ours, theirs)
        sender.send_message(recipient.boundjid.full, f"{index} <&> ünï🦀", mtype="chat")
        message = await recipient.message()
        expected.append(message["body"])
        if recipient is ours:
            assert message["stanza_id"]["by"] == USER + "@localhost", message
            ids.append(message["stanza_id"]["id"])
        else:
            assert not message["stanza_id"]["id"], message

    fields = await mam.get_fields()
    assert {"with", "start", "end", "before-id", "after-id", "ids"} <= set(fields.get_fields()), fields
    assert await bodies(mam.iterate(rsm={"max": 7})) == expected
    assert await bodies(mam.iterate(reverse=True, rsm={"max": 4})) == expected[::-1]
    assert await bodies(mam.iterate(with_jid=f"{OTHER}@localhost", start=start)) == expected
    assert await bodies(mam.iterate(with_jid="nobody@localhost")) == []
    assert await bodies(mam.iterate(end=start - datetime.timedelta(seconds=60))) == []

    answer = await mam.retrieve(rsm={"max": 5, "after": ids[0]})
    page = answer["mam"]["results"]
    assert [body(result) for result in page] == expected[2:7]
    assert page[1]["mam_result"]["id"] == ids[1], page[1]
    assert page[0]["from"].bare == ours.boundjid.bare and page[0]["mam_result"]["forwarded"]["delay"]["stamp"] >= start
    metadata = (await mam.get_archive_metadata())["mam_metadata"]
    assert metadata["start"]["id"] and metadata["end"]["id"] > ids[-1], metadata

    try:
        await mam.retrieve(rsm={"max": 5, "after": "unknown"})
        raise AssertionError("an unknown id was taken")
    except IqError as error:
        assert error.condition == "item-not-found", error

    for client in (ours, theirs):
        await client.disconnect()


asyncio.run(asyncio.wait_for(main(), PATIENCE * 2))
