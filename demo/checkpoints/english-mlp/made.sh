# What this checkpoint was made with. The corpora: the first lines of training/conf/data/debian_english.yaml.
accelerate launch training/train.py +experiment=english_mlp
speechllm convert average outputs/english_mlp/phase-4-practise/model outputs/english_mlp/model --to outputs/english_mlp/mean
python -m speechllm.hub_cards.shipping outputs/english_mlp demo/checkpoints/english-mlp \
  --model outputs/english_mlp/mean --evaluation evaluation --system mlp
