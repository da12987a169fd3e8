"""Targets of every channel: checked as apps give them, sealed for the store, shown without their secrets."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, Union, get_args, get_origin

import orjson
from pydantic import Field, PlainValidator
from typing_extensions import TypedDict

from relay.channels import CHANNELS
from relay.channels.base import Address, Channel, Refused, Target
from relay.errors import Invalid
from relay.model.delivery import DeliveryState
from relay.model.ids import new_id
from relay.outbound.receivers import Receiver
from relay.security.vault import Vault
from relay.store.registrations import NewTarget
from relay.store.watches import StoredTarget, StoredWatch

SCHEMAS: dict[str, type[Target]] = {channel.name(): channel.schema for channel in CHANNELS}
"""What an app may give as a target, by the name of its channel."""


def _validated(value: object) -> Target:
    """Validate a target by the schema of its channel.

    A union of pydantic's would put the channel's name into the location of every error, and so into the JSON pointer.
    """
    if isinstance(value, Target):
        return value
    if not isinstance(value, dict):
        raise ValueError("must be an object")
    schema = SCHEMAS.get(str(value.get("type")))
    if schema is None:
        names = " or ".join(f"'{name}'" for name in SCHEMAS)
        raise ValueError(f"must have a 'type' of {names}")
    return schema.model_validate(value)


def _fields_shown() -> dict[str, Any]:
    """Return the fields that `Channel.show` may give, with their types: those of the schemas, without constraints."""
    types = defaultdict[str, list[Any]](list)
    for schema in SCHEMAS.values():
        for name, field in schema.model_fields.items():
            if name not in ("type", "events"):
                types[name].append(_without_constraints(field.annotation))
    return {name: NotRequired[Union[tuple(choices)]] for name, choices in types.items()}  # noqa: UP007


def _without_constraints(annotation: Any) -> Any:
    """Return `str` for `Annotated[str, …] | None`: what is not given is not shown."""
    if get_origin(annotation) is Annotated:
        return _without_constraints(get_args(annotation)[0])
    choices = get_args(annotation)
    if NoneType not in choices:
        return annotation
    return Union[tuple(_without_constraints(choice) for choice in choices if choice is not NoneType)]  # noqa: UP007


if TYPE_CHECKING:
    TargetIn = Target
    TargetOut = dict[str, Any]
else:  # what the API documents and validates, made of the list
    _one_of_all = Annotated[Union[tuple(SCHEMAS.values())], Field(discriminator="type")]  # noqa: UP007
    TargetIn = Annotated[Any, PlainValidator(_validated, json_schema_input_type=_one_of_all)]
    TargetOut = TypedDict(
        "TargetOut",
        {
            "id": str,
            "type": Literal[tuple(SCHEMAS)],
            **_fields_shown(),
            "events": list[str],
            "delivery": DeliveryState,
            "reason": str | None,
        },
    )
    TargetOut.__doc__ = "Where it is told, and how far that has come."


class Targets:
    """Checks, seals and shows targets, each in the way of its channel.

    Args:
        channels: by the type of their targets.
        vault: seals addresses.
    """

    def __init__(self, channels: Mapping[str, Channel[Any]], vault: Vault) -> None:
        self._channels = channels
        self._vault = vault

    async def check(self, target: Target, pointer: str, app_id: str | None) -> None:
        """Refuse a target that cannot be reached, or must not be.

        Args:
            pointer: where in the request it stands.
            app_id: the app that must be permitted to have it; None if the caller has seen to that.

        Raises:
            Invalid: with the field that is wrong and what to do.
        """
        channel = self._channels[target.type]
        try:
            await channel.check(target)
            if app_id is not None:
                await channel.permit(target, app_id)
        except Refused as refused:
            raise Invalid.at(f"{pointer}/{refused.field}", str(refused)) from None

    def seal(self, app_id: str, target: Target) -> NewTarget:
        """Return a target as it is stored for an app."""
        channel = self._channels[target.type]
        address = channel.address(target)
        content = orjson.dumps(address.content, option=orjson.OPT_SORT_KEYS)
        events = tuple(dict.fromkeys(target.events))
        identity = (target.type.encode(), content, ",".join(sorted(events)).encode())
        target_id = new_id("tgt")
        return NewTarget(
            id=target_id,
            type=target.type,
            address=self._vault.seal(content, target_id),
            place=_place(app_id, target.type, address),
            host=address.host,
            events=events,
            fingerprint=hashlib.sha256(b"\0".join(identity)).digest(),
            living=address.living,
            shown=channel.show(orjson.loads(content)),  # in the order in which it will be read back
        )

    def show(self, target: StoredTarget, fields: Mapping[str, Any] | None = None) -> TargetOut:
        """Return a target as its app sees it.

        Args:
            fields: those that its channel shows, where they are known; else the address is opened.
        """
        return {
            "id": target.id,
            "type": target.type,
            "events": list(target.events),
            "delivery": target.delivery,
            "reason": target.reason,
            **(self._fields(target) if fields is None else fields),
        }

    def show_all(self, watch: StoredWatch) -> list[TargetOut]:
        """Return the targets of a watch as its app sees them."""
        return [self.show(target) for target in watch.targets]

    def title(self, target: StoredTarget) -> str:
        """Return what people call a target: the first field that its channel shows."""
        return str(next(iter(self._fields(target).values()), target.type))

    def content(self, target: Target | StoredTarget) -> dict[str, Any]:
        """Return what a target's channel needs to reach it."""
        if isinstance(target, Target):
            return self._channels[target.type].address(target).content
        content: dict[str, Any] = orjson.loads(self._vault.open(target.address, target.id))
        return content

    def receiver(self, app_id: str, target: Target | StoredTarget) -> Receiver:
        """Return where attempts to a target of an app go."""
        if isinstance(target, StoredTarget):
            return Receiver(target.place, target.host)
        address = self._channels[target.type].address(target)
        return Receiver(_place(app_id, target.type, address), address.host)

    def _fields(self, target: StoredTarget) -> dict[str, Any]:
        """Return the fields that a target's channel shows; none if this deployment no longer has the channel."""
        channel = self._channels.get(target.type)
        return channel.show(self.content(target)) if channel else {}


def _place(app_id: str, target_type: str, address: Address) -> str:
    """Name an address of an app."""
    return hashlib.sha256(f"{app_id}\0{target_type}\0{address.place}".encode()).hexdigest()
