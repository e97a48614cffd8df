# One image for the admin, the watcher and the commands (target app), and one with the two example modules (target stubs).

FROM python:3.13.15-slim AS dependencies
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv --without-pip /opt/venv
COPY requirements.txt /tmp/
RUN python -m pip --python /opt/venv/bin/python install --require-hashes -r /tmp/requirements.txt

FROM dependencies AS stub-dependencies
COPY backend_stub/requirements.txt /tmp/stub-requirements.txt
RUN python -m pip --python /opt/venv/bin/python install --require-hashes -r /tmp/stub-requirements.txt

FROM python:3.13.15-slim AS base
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /app
# A volume that is first mounted at one of these takes over its owner.
RUN useradd --system --uid 10001 --no-create-home --home-dir /nonexistent registry-admin \
    && install -d -o 10001 -g 10001 -m 700 /secrets /volumes/app /volumes/consul /volumes/postgres /volumes/redis \
        /volumes/backend /volumes/research

FROM base AS app
ENV DJANGO_SETTINGS_MODULE=registry_admin.settings WEB_BIND=0.0.0.0:8080
COPY --from=dependencies /opt/venv /opt/venv
COPY manage.py ./
COPY docker docker
COPY docs/consul-policy.hcl docs/
COPY registry_admin registry_admin
RUN python manage.py collectstatic --noinput --verbosity 0 && python -m compileall -q registry_admin
USER 10001:10001
EXPOSE 8080
CMD ["gunicorn", "registry_admin.wsgi", "--config", "registry_admin/gunicorn.conf.py"]

FROM base AS stubs
COPY --from=stub-dependencies /opt/venv /opt/venv
COPY registry_admin registry_admin
COPY backend_stub backend_stub
COPY research_stub research_stub
RUN python -m compileall -q registry_admin backend_stub research_stub
EXPOSE 8000 8001
USER 10001:10001

# The last one is what `docker build .` makes.
FROM app
