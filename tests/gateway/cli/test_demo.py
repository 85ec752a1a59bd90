import socket

from tests.gateway.demo.test_show import demo


def test_a_taken_port_is_one_line_with_the_remedy():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with demo("--once", "--port", str(port)) as process:
            out, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert out == ""
    assert err == f"sluiceway: cannot listen on 127.0.0.1:{port}: Address already in use. Give another --port.\n"


def test_json_without_once_is_refused():
    with demo("--json") as process:
        _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "--once" in err
