"""The pods that a render would run, and what a gateway in one of them finds: its arguments, variables and files."""

import re

from tests.parts.certificates import self_signed

ADMIN_KEY = "admin-key-of-a-secret"
STORE_URL = "rediss+cluster://:password-of-a-secret@redis.example.com:6379"
IN_FILES = {"api-key": "of-a-secret\n", "list": "http://192.0.2.8:8000/v1\n"}


def pods(objects):
    """Yield the spec of every pod that the objects would run."""
    for item in objects:
        if item["kind"] == "Pod":
            yield item["spec"]
        elif "template" in item.get("spec", {}):
            yield item["spec"]["template"]["spec"]


def gateway(objects):
    """Return the pod template of the gateways, whatever the release's objects are called."""
    (found,) = (
        item["spec"]["template"]
        for item in objects.all("Deployment")
        if item["metadata"]["labels"]["app.kubernetes.io/component"] == "gateway"
    )
    return found


def container(objects):
    """Return the one container of a gateway's pod."""
    (found,) = gateway(objects)["spec"]["containers"]
    return found


def written(objects):
    """Return the file that a gateway's pod finds where its arguments say."""
    pod, arguments = gateway(objects)["spec"], container(objects)["args"]
    folder, _, name = arguments[arguments.index("--config") + 1].rpartition("/")
    (volume,) = (mount["name"] for mount in container(objects)["volumeMounts"] if mount["mountPath"] == folder)
    (source,) = (held["configMap"]["name"] for held in pod["volumes"] if held["name"] == volume)
    return objects.one("ConfigMap", source)["data"][name]


def environment(objects):
    """Return the variables that a gateway gets, with something in place of what is in Secrets."""
    secrets = {"SLUICEWAY_ADMIN_KEY": ADMIN_KEY, "SLUICEWAY_STORE_URL": STORE_URL}
    return {
        variable["name"]: variable.get("value", secrets.get(variable["name"], "of-a-secret"))
        for variable in container(objects)["env"]
    }


def laid_out(objects, folder):
    """Write the file, and what it names in mounted Secrets, below `folder`; return its path."""
    text = written(objects)
    certificate, key = self_signed(folder / "made")
    mounts = [mount["mountPath"] for mount in container(objects)["volumeMounts"]]
    for mount in (path for path in mounts if not path.startswith(("/etc/sluiceway", "/var/lib", "/tmp"))):
        here = folder / mount.lstrip("/")
        here.mkdir(parents=True)
        for name in re.findall(rf"{mount}/([\w.-]+)", text):
            held = {"ca.crt": certificate, "tls.crt": certificate, "tls.key": key}.get(name)
            (here / name).write_text(held.read_text() if held else IN_FILES[name])
        text = text.replace(f"{mount}/", f"{here}/")
    path = folder / "sluiceway.yaml"
    path.write_text(text)
    return path
