# The program with ffmpeg beside it:  docker build -t kineograph . && docker run -v "$PWD:/films" kineograph restore a.mp4 b.mp4
FROM debian:12 AS build
RUN apt-get update && apt-get install -y --no-install-recommends make ca-certificates dpkg-dev
COPY . /source
WORKDIR /source
RUN make deps deb

FROM debian:12-slim
RUN --mount=from=build,source=/source/build/release/packages,target=/packages \
    apt-get update && apt-get install -y --no-install-recommends ffmpeg /packages/kineograph_*.deb && \
    rm -rf /var/lib/apt/lists/*
WORKDIR /films
ENTRYPOINT ["kineograph"]
