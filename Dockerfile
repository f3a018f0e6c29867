# syntax=docker/dockerfile:1
# Two images from one file:
#   docker build --target agent    -t leaderlease/agent .       nodes and sidecars
#   docker build --target operator -t leaderlease/operator .    the operator: the agent, kopf and a Kubernetes client
# BASE is any image with Python >= 3.11 on glibc; both targets run as user 65532 on a read-only root file system.
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
ENV PYTHONDONTWRITEBYTECODE=1 UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=1
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir --quiet "uv>=0.9"
WORKDIR /src
COPY pyproject.toml ./
RUN /opt/uv/bin/uv venv --quiet /opt/leaderlease \
    && /opt/uv/bin/uv pip install --quiet --no-cache --python /opt/leaderlease -r pyproject.toml

FROM build AS build-agent
COPY README.md LICENSE ./
COPY operator ./operator
RUN /opt/uv/bin/uv pip install --quiet --no-cache --python /opt/leaderlease --no-deps .

FROM build AS build-operator
RUN /opt/uv/bin/uv pip install --quiet --no-cache --python /opt/leaderlease -r pyproject.toml --extra operator
COPY README.md LICENSE ./
COPY operator ./operator
RUN /opt/uv/bin/uv pip install --quiet --no-cache --python /opt/leaderlease --no-deps .

FROM ${BASE} AS runtime
# USER: kopf asks who it is, and a numeric user has no name.
ENV PATH=/opt/leaderlease/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 USER=leaderlease
USER 65532:65532
WORKDIR /
ENTRYPOINT ["leaderlease"]

FROM runtime AS agent
LABEL org.opencontainers.image.title="leaderlease agent" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build-agent /opt/leaderlease /opt/leaderlease

FROM runtime AS operator
LABEL org.opencontainers.image.title="leaderlease operator" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build-operator /opt/leaderlease /opt/leaderlease
CMD ["operator"]
