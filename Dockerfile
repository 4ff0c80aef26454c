# foretune on a CPU: docker build -t foretune . && docker run --rm -v "$PWD:/data" foretune forecast bert-tiny movies --k 8
FROM python:3.11-slim

WORKDIR /opt/foretune
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu -c constraints.txt .

RUN useradd --create-home reader && mkdir /data && chown reader /data
USER reader
WORKDIR /data
ENTRYPOINT ["foretune"]
CMD ["--help"]
