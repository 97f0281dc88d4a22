# syntax=docker/dockerfile:1
# The portal: one image for web, workers and beat. See docker-compose.yml.

FROM python:3.11-slim-bookworm AS build
RUN python -m pip install --no-cache-dir 'uv>=0.8'
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PROJECT_ENVIRONMENT=/app/.venv UV_CACHE_DIR=/var/cache/uv
WORKDIR /app
# The packages change less often than the code: a layer of their own.
COPY pyproject.toml uv.lock ./
RUN --mount=type=cache,target=/var/cache/uv uv sync --locked --no-dev --no-group demo
COPY . .

FROM python:3.11-slim-bookworm
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PORTAL_DATA_DIR=/data
RUN useradd --system --uid 10001 --home-dir /data gleaner \
    && install -d -o gleaner -g gleaner /data /app/staticfiles
COPY --from=build /app /app
WORKDIR /app
USER gleaner
VOLUME /data
EXPOSE 8000
# --proxy-headers would believe anybody; TRUSTED_PROXIES says whom to believe.
CMD ["uvicorn", "portal.asgi:application", "--host", "0.0.0.0", "--port", "8000", "--lifespan", "off", "--no-proxy-headers", "--no-access-log", "--log-level", "warning"]
