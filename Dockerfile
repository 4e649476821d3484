# docker build -t marca . && docker run -v "$PWD/runs:/marca/runs" marca
FROM python:3.11-slim
# LightGBM's OpenMP
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
COPY requirements.txt /src/
RUN pip install --no-cache-dir -r /src/requirements.txt
COPY . /src
RUN pip install --no-cache-dir /src
WORKDIR /marca
CMD ["python", "-m", "marca_loop.orchestrate", "--config", "configs/demo.yaml", "--out", "runs/demo"]
