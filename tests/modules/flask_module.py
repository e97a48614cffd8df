"""A Flask module, registered where it is imported."""

from __future__ import annotations

import time

from flask import Flask

from registry_admin.discovery import Registration

app = Flask(__name__)
Registration().start()


@app.get("/health")
@app.get("/")
def quick() -> str:
    return "ok"


@app.get("/slow")
def slow() -> str:
    time.sleep(1)
    return "ok"
