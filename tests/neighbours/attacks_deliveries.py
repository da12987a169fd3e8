"""Attacks by what relay is made to send: to hosts that hang, to very many, to none."""

from __future__ import annotations

import itertools

from tests.neighbours.attack import attack, hosts, hundreds, rest, watch
from tests.neighbours.stage import Stage
from tests.neighbours.wire import Answer, Line


@attack(quick=True, both=True)
async def silent_hosts(stage: Stage) -> None:
    """Two thousand hosts that take a request and never answer."""
    urls = [stage.url("/hang", host) for host in hosts(2000)]
    await stage.batch(hundreds(urls, "done", stage))
    await rest()


@attack(quick=True)
async def the_same_host(stage: Stage) -> None:
    """Receivers that hang, at the very host that the other app's receiver is at."""
    urls = [stage.url(f"/hang/{number}") for number in range(1000)]
    await stage.batch(hundreds(urls, "done", stage))
    await rest()


@attack()
async def one_host_of_many_names(stage: Stage) -> None:
    """The host of the other app's receiver, written in as many ways as a URL has."""
    port = stage.receiver.port
    ways = [f"http://{host}:{'0' * zeros}{port}/hang" for zeros in range(20) for host in ("127.0.0.1", "localhost")]
    urls = [f"{way}/{number}" for number, way in itertools.product(range(25), ways)]
    await stage.batch(hundreds(urls, "done", stage))
    await rest()


@attack()
async def bad_answers(stage: Stage) -> None:
    """Receivers that trickle, that never stop, that redirect, that fail with all they have."""
    kinds = itertools.cycle(("trickle", "endless", "redirect", "binary"))
    urls = [stage.url(f"/{next(kinds)}", host) for host in hosts(1000)]
    await stage.batch(hundreds(urls, "done", stage))
    await rest()


@attack()
async def many_healthy_hosts(stage: Stage) -> None:
    """A thousand receivers that answer well and keep the connection."""
    urls = [stage.url("/ok", host) for host in hosts(1000)]
    await stage.batch(hundreds(urls, "done", stage))
    await rest()


@attack(both=True)
async def one_busy_receiver(stage: Stage) -> None:
    """Ten thousand deliveries at once to one receiver that is well."""
    urls = [stage.url(f"/ok/{number}", "127.0.0.2") for number in range(10_000)]
    await stage.batch(hundreds(urls, "done", stage))
    await rest()


@attack()
async def tests_of_a_silent_host(stage: Stage) -> None:
    """Hundreds of test events at once to one host that never answers."""
    body = {"type": "webhook", "url": stage.url("/hang", "127.0.0.2")}
    await stage.together(600, lambda line: line.ask("POST", "/v1/targets/test", body))


@attack()
async def tests_of_silent_hosts(stage: Stage) -> None:
    """Hundreds of test events at once, each to another host that never answers."""
    place = hosts(1_000_000)

    async def try_one(line: Line) -> Answer:
        body = {"type": "webhook", "url": stage.url("/hang", next(place))}
        return await line.ask("POST", "/v1/targets/test", body)

    await stage.together(600, try_one)


@attack(prepares=True, both=True, options={"RELAY_RETRY_SCHEDULE": "0s"})
async def replays(stage: Stage) -> None:
    """Thousands of dead deliveries that are sent again and again."""
    urls = [stage.url(f"/binary/{number}", host) for number, host in enumerate(hosts(3000))]
    await stage.batch(hundreds(urls, "done", stage))
    stage.prepared.set()
    await stage.together(4, lambda line: line.ask("POST", "/v1/deliveries/retry", {"state": "dead"}))


@attack(prepares=True, both=True)
async def late_targets(stage: Stage) -> None:
    """New targets, a hundred at a time, of tasks that ended long ago."""
    ended = [f"done-{stage.number()}" for _ in range(500)]
    await stage.batch([watch(task_id, stage.url("/ok", "127.0.0.2")) for task_id in ended])
    turn = itertools.cycle(ended)

    async def add(line: Line) -> Answer:
        urls = [stage.url(f"/ok/{stage.number()}", "127.0.0.2") for _ in range(50)]
        return await line.ask("POST", "/v1/watches", watch(next(turn), *urls))

    stage.prepared.set()
    await stage.together(8, add, allowed=(422,))  # a watch has room for two of these


@attack()
async def progress(stage: Stage) -> None:
    """Tasks that say something new at every query, to a hundred targets that want to hear all of it."""
    for number in range(20):
        targets = [
            {"type": "webhook", "url": stage.url(f"/ok/{k}", "127.0.0.2"), "events": ["task.progress"]}
            for k in range(100)
        ]
        await stage.ask("POST", "/v1/watches", {"task_id": f"moving-{number}", "targets": targets})
    await rest()


@attack(quick=True)
async def poison(stage: Stage) -> None:
    """Secrets that are the mask itself, and answers that repeat them: what removes them must come to an end."""
    headers = {"x-a": "********", "x-b": "*", "x-c": "**** ****"}
    for number in range(20):
        target = {"type": "webhook", "url": stage.url(f"/masked/{number}"), "headers": headers}
        body = {"task_id": f"done-{stage.number()}", "targets": [target]}
        await stage.ask("POST", "/v1/watches", body)
    for number in range(20):
        registration = watch(f"masked-{number}", stage.url("/ok"), upstream_key="********")
        await stage.ask("POST", "/v1/watches", registration)
    await rest()


@attack(names=True)
async def unanswered_lookups(stage: Stage) -> None:
    """Names whose servers are silent: in tests of targets, and in two thousand deliveries."""
    urls = [f"https://h{number}.slow.neighbours.com/hook" for number in range(2000)]
    await stage.batch(hundreds(urls, "done", stage))
    name = itertools.count()

    async def try_one(line: Line) -> Answer:
        body = {"type": "webhook", "url": f"https://t{next(name)}.slow.neighbours.com/"}
        return await line.ask("POST", "/v1/targets/test", body)

    await stage.together(100, try_one)


@attack(names=True)
async def unanswered_lookups_at_registration(stage: Stage) -> None:
    """Names that registration has to look up, at servers that are silent."""
    name = itertools.count()

    async def register(line: Line) -> Answer:
        urls = [f"http://r{next(name)}.slow.neighbours.com/" for _ in range(10)]
        return await line.ask("POST", "/v1/watches", watch(f"done-{stage.number()}", *urls))

    await stage.together(100, register, allowed=(422,))
