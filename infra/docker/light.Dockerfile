# Router, observer, synthesizer, evaluator and the command line: everything that needs no GPU.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY requirements.lock ./
RUN python3 -m venv /opt/autopoiesis \
 && /opt/autopoiesis/bin/pip install --no-cache-dir -r requirements.lock
COPY packages packages
COPY services services
RUN /opt/autopoiesis/bin/pip install --no-cache-dir --no-deps --no-build-isolation ./packages/* ./services/*

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --create-home autopoiesis \
 && install -d -o autopoiesis -g autopoiesis /var/lib/autopoiesis /var/lib/autopoiesis/blobs /var/lib/autopoiesis/segments
COPY --from=build /opt/autopoiesis /opt/autopoiesis
ENV PATH=/opt/autopoiesis/bin:$PATH PYTHONUNBUFFERED=1
USER autopoiesis
WORKDIR /var/lib/autopoiesis
ENTRYPOINT ["python", "-m"]
CMD ["autopoiesis.cli", "--help"]
