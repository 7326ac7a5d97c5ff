"""Arguments are typed: checked where the job is enqueued, and handed to it as what they were.

python examples/typed_arguments.py

It needs nothing: jobs are in the file roger.db. ROGER_BROKER=amqp://… moves them to a RabbitMQ.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any

import trio

import roger_trio as roger


class Size(Enum):
    """Travels as its value."""

    SMALL = "S"
    LARGE = "L"


@dataclass(frozen=True)
class Item:
    """Travels as a JSON object; an attrs class would too."""

    product: str
    size: Size
    price: Decimal


class ShipOrder(roger.Job, queue="orders", max_execution_time=60):
    """A job as a class: its annotated fields are its arguments."""

    customer: str
    items: list[Item]
    due: datetime
    note: str | None = None

    async def perform(self) -> None:
        """Print what has arrived."""
        for item in self.items:
            print(f"{item.product}: {item.size}, {item.price!r}")
        print(f"for {self.customer}, due in {self.due:%B %Y}, {self.note=}")
        shipped.set()


shipped = trio.Event()
config = roger.Config(
    partitions={"shop": {"orders": 2}},
    prefix="example-",
).with_environment()


async def main() -> None:
    async with trio.open_nursery() as nursery:
        node = await nursery.start(roger.serve, config)
        shirt = Item("shirt", Size.LARGE, Decimal("19.90"))
        order = ShipOrder("Ada", [shirt], due=datetime(2030, 12, 24, tzinfo=UTC))
        envelope = await node.enqueue(order, "shop")
        await shipped.wait()
        print("on the wire:", json.dumps(envelope.args["items"]))

        # What comes from outside no type checker has seen; a wrong value is refused right here.
        for outside in ('{"due": "tomorrow"}', '{"items": [1]}', '{"note": 5}'):
            values: dict[str, Any] = {**vars(order), **json.loads(outside)}
            try:
                await node.enqueue(ShipOrder(**values), "shop")
            except roger.InvalidJob as error:
                print(error)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)

# Prints:
#   shirt: Size.LARGE, Decimal('19.90')
#   for Ada, due in December 2030, self.note=None
#   on the wire: [{"product": "shirt", "size": "L", "price": "19.90"}]
#   job typed_arguments:ShipOrder: due: expected a datetime with a time zone, got 'tomorrow'
#   job typed_arguments:ShipOrder: items[0]: expected a Item, got 1
#   job typed_arguments:ShipOrder: note: expected text, got 5
