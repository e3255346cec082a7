"""Tiny in-process Hugging Face Hub: enough for push_to_hub / from_pretrained / snapshot_download. Test use only."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlparse


LFS = (".parquet", ".safetensors", ".bin", ".mp4")
TYPES = {"models": "model", "datasets": "dataset", "spaces": "space"}


class Hub:
    def __init__(self):
        self.repos, self.log, self.lfs = {}, [], {}  # {(type, id): {"files": {path: bytes}, "sha": str}}

    def repo(self, t, i):
        return self.repos.get((t, i))

    def commit(self, t, i, ops):
        r = self.repos.setdefault((t, i), {"files": {}, "sha": "0" * 40})
        for k, path, data in ops:
            if k == "file":
                r["files"][path] = data
            else:
                r["files"].pop(path, None)
        r["sha"] = hashlib.sha1(
            repr(sorted((p, hashlib.sha1(d).hexdigest()) for p, d in r["files"].items())).encode()
        ).hexdigest()
        return r["sha"]


def make_handler(hub):
    class H(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *a):
            pass

        def _send(self, code, body=b"", headers=None, ctype="application/json"):
            if isinstance(body, (dict, list)):
                body = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Type", ctype)
            self.send_header("Content-Length", str(len(body)))
            for k, v in (headers or {}).items():
                self.send_header(k, v)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _nf(self, code, msg):
            self._send(404, {"error": msg}, {"X-Error-Code": code, "X-Error-Message": msg})

        def _body(self):
            if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                out = b""
                while True:
                    n = int(self.rfile.readline().split(b";")[0], 16)
                    if n == 0:
                        self.rfile.readline()
                        return out
                    out += self.rfile.read(n)
                    self.rfile.readline()
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _info(self, t, i):
            r = hub.repo(t, i)
            return {
                "id": i,
                "_id": "x",
                "modelId": i,
                "sha": r["sha"],
                "private": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "gated": False,
                "disabled": False,
                "siblings": [
                    {"rfilename": p, "size": len(d), "blobId": hashlib.sha1(d).hexdigest()}
                    | (
                        {"lfs": {"sha256": hashlib.sha256(d).hexdigest(), "size": len(d), "pointerSize": 130}}
                        if p.endswith(LFS)
                        else {}
                    )
                    for p, d in sorted(r["files"].items())
                ],
                "lastModified": "2026-01-01T00:00:00.000Z",
                "createdAt": "2026-01-01T00:00:00.000Z",
            }

        def _tree(self, t, i, sub="", recursive=True):
            out, sub = {}, (sub.strip("/") + "/" if sub.strip("/") else "")
            for p, d in sorted(hub.repo(t, i)["files"].items()):
                if not p.startswith(sub):
                    continue
                parts = p[len(sub) :].split("/")
                for n in range(1, len(parts)):
                    q = sub + "/".join(parts[:n])
                    if recursive or n == 1:
                        out[q] = {"type": "directory", "path": q, "size": 0, "oid": "0" * 40}
                if recursive or len(parts) == 1:
                    out[p] = {"type": "file", "path": p, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}
            return list(out.values())

        def do_POST(self):
            self.route()

        def do_GET(self):
            self.route()

        def do_HEAD(self):
            self.route()

        def do_PUT(self):
            self.route()

        def route(self):
            u = urlparse(self.path)
            p = unquote(u.path)
            body = self._body() if self.command in ("POST", "PUT") else b""
            hub.log.append((self.command, p))
            if "hf_bad" in self.headers.get("Authorization", ""):
                return self._send(401, {"error": "Invalid user token."}, {"X-Error-Message": "Invalid user token."})
            if p.startswith("/api/repos/create") and "hf_read" in self.headers.get("Authorization", ""):
                return self._send(403, {"error": "Forbidden"}, {"X-Error-Message": "no write access"})
            if p == "/api/whoami-v2":
                return self._send(
                    200,
                    {
                        "type": "user",
                        "id": "1",
                        "name": "me",
                        "fullname": "me",
                        "orgs": [],
                        "auth": {"accessToken": {"displayName": "t", "role": "write"}},
                    },
                )
            if p == "/api/validate-yaml":
                return self._send(200, {"errors": [], "warnings": []})
            if p == "/api/repos/create":
                b = json.loads(body)
                t = b.get("type", "model") or "model"
                i = f"{b.get('organization') or 'me'}/{b['name']}"
                if (t, i) in hub.repos:
                    return self._send(409, {"error": "exists", "url": f"http://{self.headers['Host']}/{i}"})
                hub.repos[(t, i)] = {"files": {}, "sha": "0" * 40}
                return self._send(200, {"url": f"http://{self.headers['Host']}/{i}", "name": i, "id": "x"})
            m = re.match(r"^/api/(models|datasets|spaces)/([^/]+/[^/]+)(?:/(.*))?$", p)
            if m:
                t, i, rest = TYPES[m[1]], m[2], m[3] or ""
                if hub.repo(t, i) is None:
                    return self._nf("RepoNotFound", "Repository Not Found")
                if rest.startswith("preupload/"):
                    return self._send(
                        200,
                        {
                            "files": [
                                {
                                    "path": f["path"],
                                    "uploadMode": "lfs" if f["path"].endswith(LFS) else "regular",
                                    "shouldIgnore": False,
                                }
                                for f in json.loads(body)["files"]
                            ]
                        },
                    )
                if rest.startswith("commit/"):
                    ops = []
                    for line in body.splitlines():
                        d = json.loads(line)
                        if d["key"] == "file":
                            ops.append(("file", d["value"]["path"], base64.b64decode(d["value"]["content"])))
                        elif d["key"] == "lfsFile":
                            ops.append(("file", d["value"]["path"], hub.lfs[d["value"]["oid"]]))
                        elif d["key"] == "deletedFile":
                            ops.append(("del", d["value"]["path"], None))
                    sha = hub.commit(t, i, ops)
                    return self._send(
                        200,
                        {
                            "success": True,
                            "commitOid": sha,
                            "commitUrl": f"http://{self.headers['Host']}/{i}/commit/{sha}",
                            "hookOutput": "",
                        },
                    )
                if rest == "" or rest.startswith("revision/"):
                    return self._send(200, self._info(t, i))
                if rest.startswith("tree/"):
                    sub = rest.split("/", 2)[2] if rest.count("/") > 1 else ""
                    tree = self._tree(
                        t, i, sub, parse_qs(u.query).get("recursive", ["false"])[0].lower() in ("true", "1")
                    )
                    if sub and not tree:
                        return self._nf("EntryNotFound", sub)
                    return self._send(200, tree)
                if rest.startswith("paths-info/"):
                    want = json.loads(body)["paths"] if body[:1] == b"{" else parse_qs(body.decode()).get("paths", [])
                    return self._send(200, [x for x in self._tree(t, i) if x["path"] in want])
                if rest.startswith(("tag/", "branch/")):
                    tag = json.loads(body)["tag"] if rest.startswith("tag/") else unquote(rest.split("/", 1)[1])
                    hub.repo(t, i).setdefault("refs", []).append(tag)
                    return self._send(200, {})
                if rest.startswith("refs"):
                    return self._send(
                        200,
                        {
                            "branches": [
                                {"name": "main", "ref": "refs/heads/main", "targetCommit": hub.repo(t, i)["sha"]}
                            ],
                            "tags": [],
                            "converts": [],
                        },
                    )
            m = re.match(r"^/(datasets/|spaces/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$", p)
            if m:
                t = {"datasets/": "dataset", "spaces/": "space"}.get(m[1], "model")
                r = hub.repo(t, m[2])
                if r is None:
                    return self._nf("RepoNotFound", "Repository Not Found")
                if m[4] not in r["files"]:
                    return self._send(
                        404,
                        b"",
                        {
                            "X-Error-Code": "EntryNotFound",
                            "X-Error-Message": "Entry not found",
                            "X-Repo-Commit": r["sha"],
                        },
                    )
                d = r["files"][m[4]]
                return self._send(
                    200,
                    d,
                    {
                        "X-Repo-Commit": r["sha"],
                        "ETag": f'"{hashlib.sha1(d).hexdigest()}"',
                        "X-Linked-Size": str(len(d)),
                        "Accept-Ranges": "bytes",
                    },
                    "application/octet-stream",
                )
            if p.endswith(".git/info/lfs/objects/batch"):
                objs = [
                    {
                        "oid": o["oid"],
                        "size": o["size"],
                        "authenticated": True,
                        "actions": {
                            "upload": {"href": f"http://{self.headers['Host']}/__lfs/{o['oid']}", "header": {}}
                        },
                    }
                    for o in json.loads(body)["objects"]
                ]
                return self._send(200, {"transfer": "basic", "objects": objs})
            if p.startswith("/__lfs/") and self.command == "PUT":
                hub.lfs[p.split("/")[-1]] = body
                return self._send(200, {})
            hub.log.append(("UNHANDLED", self.command, p, body[:200]))
            self._nf("EntryNotFound", "unhandled " + p)

    return H


class FakeHub:
    def __enter__(self):
        self.hub = Hub()
        self.srv = ThreadingHTTPServer(("127.0.0.1", 0), make_handler(self.hub))
        self.url = f"http://127.0.0.1:{self.srv.server_port}"
        threading.Thread(target=self.srv.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *a):
        self.srv.shutdown()
        self.srv.server_close()
