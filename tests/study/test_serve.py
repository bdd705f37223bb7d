"""The server's API: who may ask, what is handed out, what is refused, what is kept."""

import http.client
import json
import threading

import pytest
from small_study import some_study, write_study

pytest.importorskip("starlette")
uvicorn = pytest.importorskip("uvicorn")

from spade_xai.study.limits import Buckets  # noqa: E402
from spade_xai.study.serve import MOST_BYTES, Limits, application  # noqa: E402


class Client:
    """Requests to a server, as a browser sends them."""

    def __init__(self, port):
        self.port, self.token = port, None
        self.host = f"127.0.0.1:{port}"

    def ask(self, method, path, body=None, **headers):
        given = {"Content-Type": "application/json", "Origin": f"http://{self.host}"}
        if self.token:
            given["Authorization"] = f"Bearer {self.token}"
        given |= {k.replace("_", "-"): v for k, v in headers.items()}
        given = {k: v for k, v in given.items() if v is not None}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, data, given)
        response = connection.getresponse()
        self.headers = response.headers
        text = response.read()
        connection.close()
        return response.status, text

    def json(self, *arguments, **headers):
        status, text = self.ask(*arguments, **headers)
        return status, json.loads(text)

    def start(self):
        status, body = self.json("POST", "/api/raters", {"consent": True})
        self.token = body.get("token")
        return status, body

    def answer(self, now, choice="left", **changed):
        body = {
            "position": now["position"],
            "task": now["task"]["task"],
            "choice": choice,
            "milliseconds": 900,
        }
        return self.json("POST", "/api/answers", {**body, **changed})


@pytest.fixture
def served(study_folder):
    """Starts a server of the study in a thread; gives the application and a client."""
    running = []

    def start(**options):
        app = application(study_folder, **options)
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", access_log=False))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            thread.join(0.01)
        running.append((server, thread, app))
        return app, Client(server.servers[0].sockets[0].getsockname()[1])

    yield start
    for server, thread, app in running:
        server.should_exit = True
        thread.join(10)
        app.state.store.close()


def test_a_rater_works_through_all_tasks(served):
    app, client = served()
    status, session = client.start()
    assert status == 201 and set(session) == {"rater", "token"}
    seen = []
    _, now = client.json("GET", "/api/task")
    while now["task"] is not None:
        assert now["position"] == len(seen) and now["of"] == 5
        assert client.json("GET", "/api/task")[1] == now  # a reload gives the same task
        assert set(now["task"]) == {"task", "picture", "pattern", "left", "right"}
        seen.append(now["task"]["task"])
        status, now = client.answer(now)
        assert status == 200
    assert len(seen) == 5 and len(set(seen)) == 4  # one repetition
    assert len(app.state.store.answers()) == 5


def test_an_answer_that_comes_twice_is_kept_once(served):
    app, client = served()
    client.start()
    _, now = client.json("GET", "/api/task")
    first, again = client.answer(now, "left"), client.answer(now, "right")
    assert first == again and first[0] == 200
    assert [a.choice for a in app.state.store.answers()] == ["left"]


def test_other_sites_are_refused(served):
    app, client = served()
    consent = {"consent": True}
    foreign = {"Origin": "http://evil.example"}
    assert client.ask("POST", "/api/raters", consent, **foreign)[0] == 403
    assert client.ask("POST", "/api/raters", consent, Sec_Fetch_Site="cross-site")[0] == 403
    assert client.ask("POST", "/api/raters", consent, Origin="null")[0] == 403
    # what a form of another site can send without asking first
    assert client.ask("POST", "/api/raters", consent, Content_Type="text/plain")[0] == 415
    assert (
        client.ask("POST", "/api/raters", consent, Host="evil.example")[0] == 400
    )  # DNS rebinding
    client.start()
    _, now = client.json("GET", "/api/task")
    body = {"position": 0, "task": now["task"]["task"], "choice": "left", "milliseconds": 1}
    assert client.ask("POST", "/api/answers", body, **foreign)[0] == 403
    assert client.ask("DELETE", "/api/rater", **foreign)[0] == 403
    assert client.ask("POST", "/api/answers", body, Authorization=None)[0] == 401
    assert client.ask("POST", "/api/answers", body, Authorization="Bearer x")[0] == 401
    assert app.state.store.answers() == []
    assert client.ask("POST", "/api/answers", body, Sec_Fetch_Site="same-origin")[0] == 200


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"position": 1}, 409), ({"task": "other"}, 409), ({"choice": "up"}, 400), ({"choice": None}, 400),
        ({"position": True}, 400), ({"milliseconds": -1}, 400), ({"milliseconds": 1.5}, 400),
        ({"milliseconds": 10**12}, 400), ({"task": ["x"]}, 400),
    ],
)  # fmt: skip
def test_wrong_answers_are_refused(served, changed, status):
    app, client = served()
    client.start()
    _, now = client.json("GET", "/api/task")
    got, body = client.answer(now, **changed)
    assert got == status and body["error"]
    assert app.state.store.answers() == []


def test_size_and_form_of_requests(served):
    _, client = served()
    assert client.ask("POST", "/api/raters", b"x" * (MOST_BYTES + 1))[0] == 413
    for body in (b"{", b"[]", b"[" * 2000, b"", b"\xff"):
        assert client.ask("POST", "/api/raters", body)[0] == 400
    assert client.ask("POST", "/api/raters", {"consent": False})[0] == 400


def test_rates(served):
    _, client = served(limits=Limits(answers=0.001, raters=0.001, burst=3))
    assert [client.start()[0] for _ in range(3)] == [201] * 3
    assert [client.ask("GET", "/api/task")[0] for _ in range(4)] == [200] * 3 + [429]
    assert client.headers["Retry-After"] == "2"
    client.token = None
    assert client.start()[0] == 429


def test_buckets_fill_up_again_and_forget():
    now = [0.0]
    buckets = Buckets(2.0, 3, most=4, clock=lambda: now[0])
    assert [buckets.take("a") for _ in range(4)] == [True, True, True, False]
    now[0] = 0.5
    assert [buckets.take("a") for _ in range(2)] == [True, False]
    for name in "bcdefgh":
        assert buckets.take(name)
    assert len(buckets._kept) <= 4 and "a" in buckets._kept  # the emptiest stay


def test_enough(served):
    asked = []
    _, client = served(is_enough=lambda store, study: asked.append(store) or len(asked) > 1)
    assert client.start()[0] == 201
    status, body = client.start()
    assert status == 410 and "enough answers" in body["error"]


def test_a_rater_can_withdraw(served):
    app, client = served()
    client.start()
    _, now = client.json("GET", "/api/task")
    client.answer(now)
    assert client.ask("DELETE", "/api/rater")[0] == 200
    assert client.ask("GET", "/api/task")[0] == 401 and app.state.store.answers() == []


def test_files(served, study_folder):
    _, client = served()
    status, page = client.ask("GET", "/")
    assert status == 200 and b"experiment.js" in page
    policy = client.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert b'kind: "server"' in client.ask("GET", "/host.js")[1]
    picture = next((study_folder / "site" / "pictures").glob("p0.png"))
    assert client.ask("GET", "/pictures/p0.png")[1] == picture.read_bytes()
    hidden = [
        "lists.js",
        "study.json",
        "../study.json",
        "%2e%2e/study.json",
        "answers.sqlite",
        "parts",
        "/etc/passwd",
    ]
    assert [client.ask("GET", f"/{path}")[0] for path in hidden] == [404] * len(hidden)


def test_nothing_handed_out_says_class_or_condition(served, study_folder):
    _, client = served()
    text = b"".join(client.ask("GET", f"/{name}")[1] for name in ("", "texts.js", "host.js"))
    client.start()
    text += client.ask("GET", "/api/task")[1]
    for word in (b"class ", b"dense", b"predicted", b"image0.png"):
        assert word not in text


def test_a_study_that_was_changed_is_not_served(study_folder):
    path = study_folder / "site" / "experiment.js"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(ValueError, match=r"experiment\.js was changed"):
        application(study_folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*experiment\.js"):
        application(study_folder)


def test_titles_and_consent_are_text_not_markup(tmp_path):
    folder = tmp_path / "s"
    title = "<img src=x onerror=alert(1)> </script>"
    write_study(folder, some_study(folder, title=title), consent="a </script><b>")
    page = (folder / "site" / "index.html").read_text()
    assert "<img" not in page and "&lt;img" in page
    assert "</script>" not in (folder / "site" / "texts.js").read_text()
