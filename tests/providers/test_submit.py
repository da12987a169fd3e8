"""`[[submit]]`: which calls are creates, where the id stands, which query is about which task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from relay.providers.addresses import QueryAddress, creates_at, decoded_query
from relay.providers.callbacks import Forward, without_callbacks
from relay.providers.definition import RequestTable, load_definition
from relay.providers.document import Answer
from relay.providers.passing import KeyPlaces, headers_back, headers_out
from relay.providers.submit import Submit

FILES = sorted((Path(__file__).parents[2] / "config/providers").glob("*.toml"))


def submit(**fields: Any) -> Submit:
    return Submit.model_validate({"path": "/v1/create", "task_id": "id"} | fields)


@pytest.mark.parametrize(
    "wrong",
    [
        {"path": "v1"}, {"path": "/a/../b"}, {"path": "/a?b=c"}, {"path": "/{a}/{a}"}, {"path": "/{9}"}, {"path": "/{"},
        {"task_id": []}, {"task_id": "a["}, {"task_id": "header:"}, {"task_id": "nope(a)"}, {"refused_http": [200]},
        {"timeout": 0}, {"method": "GET"}, {"unheard": 1},
    ],
)  # fmt: skip
def test_a_table_that_is_wrong_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        submit(**wrong)


@pytest.mark.parametrize(
    ("path", "asked", "names"),
    [
        ("/v1/{model}/run", "/v1/veo-3/run", {"model": "veo-3"}),
        ("/v1/{model}:go", "/v1/veo:go", {"model": "veo"}),
        ("/v1/{model}/run", "/v1/a%20b/run", {"model": "a b"}),
        ("/v1/create", "/v1/create", {}),
    ],
)
def test_names_stand_for_one_segment(path: str, asked: str, names: dict[str, str]) -> None:
    assert submit(path=path).names(asked) == names


@pytest.mark.parametrize(
    "asked",
    ["/v1//run", "/v1/../run", "/v1/%2e%2e/run", "/v1/%252e%252e/run", "/v1/a%2fb/run", "/v1/a%5cb/run", "/v1/a\\b/run",
     "/v1/a/b/run", "/v1/a/run/", "/v1/a/run?x", "/v1/%00/run", "/V1/a/run"],
)  # fmt: skip
def test_no_path_leads_elsewhere(asked: str) -> None:
    assert submit(path="/v1/{model}/run").names(asked) is None


@pytest.mark.parametrize(
    ("task_id", "found"),
    [
        ("id", "7"),
        (["missing", "data.id"], "in"),
        ("header:Operation-Location", "https://x.example/op/9"),
        ("{model}/{data.id}", "veo/in"),
        (["{model}/{missing}", "id"], "7"),
        ("missing", None),
        ("flag", None),
    ],
)
def test_where_the_id_stands(task_id: Any, found: str | None) -> None:
    document = {"id": 7, "data": {"id": "in"}, "flag": True}
    answer = Answer(200, {"operation-location": "https://x.example/op/9"}, b"")
    assert submit(task_id=task_id).task_id.first(answer, document, {"model": "veo"}) == found


@pytest.mark.parametrize(
    ("request_table", "path", "query", "body", "task"),
    [
        ({"path": "/q", "query": {"id": "{task_id}"}}, "/q", b"x=1&id=a%2Fb", None, "a/b"),
        ({"path": "/v/{task_id}"}, "/v/a%20b", b"", None, "a b"),
        ({"path": "/v/{task_id}.json"}, "/v/7.json", b"", None, "7"),
        ({"path": "/v/{task_path}"}, "/v/models/x/operations/7", b"", None, "models/x/operations/7"),
        ({"path": "/v/{task_id}"}, "/w/7", b"", None, None),
        ({"method": "POST", "path": "/s", "json": {"a": {"id": "{task_id}"}}}, "/s", b"", {"a": {"id": "7"}}, "7"),
        ({"method": "POST", "path": "/s", "json": {"ids": ["{task_id}"]}}, "/s", b"", {"ids": []}, None),
    ],
)
def test_about_which_task_a_query_is(
    request_table: dict[str, Any], path: str, query: bytes, body: Any, task: str | None
) -> None:
    address = QueryAddress(RequestTable.model_validate(request_table))
    assert address.task_id(path, decoded_query(query), body) == task


def test_of_a_url_that_is_the_query_the_id_is_the_task() -> None:
    table = {"base_url": "https://x.example/base", "path": "/op/{task_path}"}
    address = QueryAddress(RequestTable.model_validate(table))
    assert address.task_of("https://x.example/base/op/m/7?api-version=1") == "m/7"
    assert address.task_of("https://x.example/other/7") is None


def test_the_key_is_found_where_the_file_has_it() -> None:
    places = KeyPlaces.of(
        RequestTable.model_validate({"path": "/{task_id}", "headers": {"Authorization": "Token {key}"}})
    )
    assert places.key_in([(b"authorization", b"token  sk-1")], []) == "sk-1"
    assert places.key_in([(b"authorization", b"Bearer sk-1")], []) is None


def test_underscores_hide_nothing() -> None:
    given = [
        (b"X_Forwarded_For", b"1"),
        (b"Relay_Key", b"1"),
        (b"Connection", b"X-Hop"),
        (b"x_hop", b"1"),
        (b"a", b"1"),
    ]
    assert headers_out(given) == headers_back(given) or headers_out(given) == [(b"a", b"1")]
    assert headers_out([(b"x-api-key", b"1")], ["X-Api-Key"]) == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_declared_create_is_found_at_its_path(file: Path) -> None:
    definition = load_definition(file, {})
    for one in definition.submit:
        path = one.path
        for name in one.path_names:
            path = path.replace(f"{{{name}}}", "some-thing")
        assert one in [create.submit for create in creates_at(definition, path)]


@pytest.mark.parametrize("place", range(3))
def test_a_callback_is_cut_out_and_every_other_byte_stays(place: int) -> None:
    members = [b'"a" : 1.50', b'"b":{"hook":"x"}']
    members.insert(place, b'"hook" :"https://a.example/\\u00e9"')
    rest, found = without_callbacks(b" {" + b" ,\n".join(members) + b"} ", ["hook", "other"])
    assert found == {"hook": "https://a.example/é"}
    assert rest == b' {"a" : 1.50 ,\n"b":{"hook":"x"}} '
    assert json.loads(rest) == {"a": 1.5, "b": {"hook": "x"}}


@pytest.mark.parametrize(
    ("body", "rest"),
    [
        (b'{"a" : 1.50}', b'{"a" : 1.50, "hook": "https://r.example/in/x"}'),
        (b' {"hook":"https://a.example","a":1} ', b' {"a":1, "hook": "https://r.example/in/x"} '),
        (b'{"a":1,"hook":null}', b'{"a":1, "hook": "https://r.example/in/x"}'),
        (b'{"hook":"-1"}', b'{"hook": "https://r.example/in/x"}'),
        (b"{ }", b'{ "hook": "https://r.example/in/x"}'),
        (b'{"a":{"hook":"}"}}', b'{"a":{"hook":"}"}, "hook": "https://r.example/in/x"}'),
        (b'{"a":"}"}', b'{"a":"}", "hook": "https://r.example/in/x"}'),
        (b'["{}"]', b'["{}"]'),
        (b'"}"', b'"}"'),
        (b"no json }", b"no json }"),
        (b"", b""),
    ],
)
def test_relay_names_itself_in_the_place_of_a_callback_and_every_other_byte_stays(body: bytes, rest: bytes) -> None:
    forward = Forward("hook", "https://r.example/in/x")
    assert without_callbacks(body, ["hook", "other"], forward)[0] == rest
