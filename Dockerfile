# tokenloc on a CPU: see docs/tutorial.md
FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY recipes recipes
COPY src src
# uv finds PyTorch without CUDA, which takes a fifth of the space.
RUN python -m venv /opt/tokenloc \
    && python -m pip install --no-cache-dir uv \
    && uv pip install --no-cache --python /opt/tokenloc/bin/python --torch-backend cpu ".[parquet,server]"

FROM python:3.12-slim
COPY --from=build /opt/tokenloc /opt/tokenloc
RUN useradd --create-home --uid 1000 tokenloc && install -d --owner=tokenloc /work
# Caches go where any user may write: docker run --user "$(id -u):$(id -g)".
ENV PATH=/opt/tokenloc/bin:$PATH HOME=/tmp
USER 1000
WORKDIR /work
EXPOSE 7860
ENTRYPOINT ["tokenloc"]
CMD ["--help"]
