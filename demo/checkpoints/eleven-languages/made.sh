# What this checkpoint was made with, in this order; config.yaml, train.log and plots are those of debian_bank, the
# others lie in runs/.
speechllm prepare debian-speech --wideband --to corpus/debian
speechllm prepare synthetic --language ca --clips 14000 --to corpus/synthetic-catalan \
  --apart corpus/debian/validation.jsonl corpus/debian/test.jsonl
speechllm prepare synthetic --language ca --texts sentences --clips 10510 --to corpus/synthetic-catalan-sentences \
  --apart corpus/debian/validation.jsonl corpus/debian/test.jsonl
accelerate launch training/train.py +experiment=debian_bank
accelerate launch training/train.py +experiment=debian_bank_scarce
speechllm convert average outputs/debian_bank/model outputs/debian_bank_scarce/model --to outputs/debian_bank_scarce/mean
accelerate launch training/train.py +experiment=debian_catalan
speechllm convert average outputs/debian_bank_scarce/mean outputs/debian_catalan/model --to outputs/debian_catalan/mean
# From here on with outputs/debian_catalan/mean as it had been shipped, rounded to float16.
accelerate launch training/train.py +experiment=debian_catalan_sentences
accelerate launch training/train.py +experiment=debian_catalan_sentences seed=43 name=debian_catalan_sentences_43
speechllm convert average outputs/debian_catalan/mean outputs/debian_catalan_sentences/model \
  outputs/debian_catalan_sentences_43/model --to outputs/debian_catalan_sentences/mean
python -m speechllm.hub_cards.shipping outputs/debian_bank demo/checkpoints/eleven-languages \
  --model outputs/debian_catalan_sentences/mean \
  --further outputs/debian_bank_scarce outputs/debian_catalan \
    outputs/debian_catalan_sentences outputs/debian_catalan_sentences_43 \
  --evaluation evaluation --system soft
