"""``roger doctor``: what an operator is told, of RabbitMQ and of the embedded broker."""

from __future__ import annotations

import json
from typing import Any

from yarl import URL

from roger_trio import __version__
from tests.acceptance.command import Roger


async def document(roger: Roger, status: int = 0) -> dict[str, Any]:
    """Return the JSON of a doctor, whose exit status is known."""
    done = await roger("doctor", "app:config", "--json")
    assert (done.status, done.err) == (status, ""), done
    found: dict[str, Any] = json.loads(done.out)
    return found


def levels(report: dict[str, Any]) -> dict[str, str]:
    """Return the level of each check."""
    return {each["id"]: each["level"] for each in report["findings"]}


async def test_a_broker_with_a_node(roger: Roger) -> None:
    """With a node that runs, all of it is well, and the node is asked too."""
    async with roger.serving():
        report = await document(roger)
        table = await roger("doctor", "app:config")
    found = levels(report)
    assert "error" not in found.values()
    assert {each for each, level in found.items() if level == "warning"} <= {
        "broker.consumer_timeout"  # of a RabbitMQ before 3.12
    }
    assert {"broker.version", "broker.permissions", "nodes.clocks", "state.hosts"} <= set(found)
    assert found["nodes.partitions"] == "ok"
    topology = next(each for each in report["findings"] if each["id"] == "broker.topology")
    assert topology["found"].startswith("not there yet, and made when they are needed") or (
        topology["found"].endswith("are as they should be")
    )
    assert {"broker.policies", "broker.file_handles"} <= {each["id"] for each in report["by_hand"]}
    assert table.status == 0
    assert table.out.startswith("CHECK")
    assert "$ rabbitmqctl list_queues" in table.out
    assert f"all have roger_trio {__version__}" in table.out


async def test_an_embedded_broker(roger: Roger) -> None:
    """Before the first start there is nothing to find wrong; with a node its file is looked at."""
    roger.environment["ROGER_BROKER"] = "sqlite:jobs.db"
    assert levels(await document(roger))["file.access"] == "ok"
    assert not (roger.folder / "jobs.db").exists()
    async with roger.serving():
        report = await document(roger)
    found = levels(report)
    assert "error" not in found.values()
    assert found["file.integrity"] == found["file.journal"] == found["nodes.answering"] == "ok"
    assert report["by_hand"] == []


async def test_a_broker_that_is_away(roger: Roger) -> None:
    """It is an error, told without its password, with the exit status of one."""
    roger.environment["ROGER_BROKER"] = "amqp://app:secret-word@127.0.0.1:1/"
    done = await roger("doctor", "app:config")
    assert done.status == 1
    (row,) = (line for line in done.out.splitlines() if line.startswith("broker.connection"))
    assert row.split()[1] == "error"
    assert "secret-word" not in done.out + done.err


async def test_too_few_channels_to_send_a_message(roger: Roger, amqp_url: str) -> None:
    """It is told that channels are too few, and what of it could not be looked at for that."""
    url = URL(amqp_url)
    roger.environment["ROGER_BROKER"] = str(url.update_query(channel_max=1))
    report = await document(roger, status=1)
    findings = {each["id"]: each for each in report["findings"]}
    assert findings["broker.channels"]["level"] == "error"
    assert "a connection may have 1 channel," in findings["broker.channels"]["found"]
    assert "channel_max" in findings["broker.alarm"]["found"]
    assert levels(report)["broker.topology"] == "ok"


async def test_wrong_usage(roger: Roger) -> None:
    """A configuration that is not there is neither well nor ill."""
    assert (await roger("doctor", "app:nothing")).status == 2
