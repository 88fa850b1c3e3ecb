# syntax=docker/dockerfile:1
# Two stages: wheels, bytecode and the compiled data plane are made in the first, which has a C compiler; the second has none, no pip, no root.

FROM python:3.13 AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv --without-pip /opt/model-gateway
WORKDIR /build
COPY requirements.runtime.lock requirements.compile.lock setup.py ./
RUN pip --python /opt/model-gateway/bin/python install \
        --require-hashes --only-binary :all: -r requirements.runtime.lock \
    && pip install --require-hashes --only-binary :all: --target tools -r requirements.compile.lock
# The program runs from its source tree: migrations and examples lie beside the package.
COPY app /opt/model-gateway/src/app
COPY migrations /opt/model-gateway/src/migrations
COPY examples /opt/model-gateway/src/examples
# The data plane as C extensions beside its sources (docs/decisions/0002).
WORKDIR /opt/model-gateway/src
RUN PYTHONPATH=/build/tools MODEL_GATEWAY_COMPILE=1 /opt/model-gateway/bin/python /build/setup.py --quiet build_ext --inplace \
    && rm -rf build
RUN printf '#!/bin/sh\nexec /opt/model-gateway/bin/python -m app "$@"\n' > /opt/model-gateway/bin/model-gateway \
    && chmod 0755 /opt/model-gateway/bin/model-gateway \
    && /opt/model-gateway/bin/python -m compileall -q /opt/model-gateway

FROM python:3.13-slim
LABEL org.opencontainers.image.title="model-gateway" \
      org.opencontainers.image.description="Sticky canaries, shadows, prediction logs, late outcomes, rollback on evidence."
COPY --from=build /opt/model-gateway /opt/model-gateway
# Everything that is written lies in /data; the rest of the file system may be read-only.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /data --shell /usr/sbin/nologin gateway \
    && mkdir --mode 0700 /data /etc/model-gateway \
    && chmod 0755 /etc/model-gateway \
    && chown gateway:gateway /data
ENV PATH=/opt/model-gateway/bin:$PATH \
    PYTHONPATH=/opt/model-gateway/src \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    GATEWAY_DATA_DIR=/data \
    GATEWAY_SERVER__HOST=0.0.0.0
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
ENTRYPOINT ["model-gateway"]
CMD ["serve", "--config", "/etc/model-gateway/gateway.yaml"]
