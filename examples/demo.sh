#!/bin/sh
# The main job on a real network: which tensors of PP-OCRv4's text detector must share a scale on TFLite,
# why, what it costs, and an int8 model that runs. Run it with `make demo`; everything it writes is in demo/.
set -eu
mkdir -p demo
cd demo

run() {
    printf '\n\033[1m$ %s\033[0m\n' "$*"
    "$@"
}

models=../examples/development_models.py
[ -f ppocr4_det.onnx ] || python $models ppocr4_det --model ppocr4_det.onnx
[ -f photos.npz ] || python $models ppocr4_det --data photos.npz --count 32
[ -f others.npz ] || python $models ppocr4_det --data others.npz --count 16 --skip 32

run qgraph analyze ppocr4_det.onnx --target tflite
run qgraph calibrate ppocr4_det.onnx --data photos.npz --target tflite --observer mse --name mse
run qgraph groups mse --by-cost --top 8
run qgraph why nearest_interp_v2_3.tmp_0 p2o.Add.277 --run mse
run qgraph solve mse --target tflite --observer minmax --name minmax
run qgraph diff mse minmax --top 8
run qgraph export mse --format qdq -o ppocr4_det.int8.onnx
run qgraph verify mse --data others.npz
