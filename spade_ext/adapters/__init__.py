"""This package's ops where other pruning projects expect theirs. Each module needs its project only when it is used.

| module | for | gives |
|---|---|---|
| torch_prune | torch.nn.utils.prune | ObcPruning, SparseGPTPruning; freeze_masks for fine-tuning |
| torch_ao | torch.ao.pruning | HessianSparsifier |
| llm_compressor | llm-compressor | sparsify_weight |
| model_optimizer | NVIDIA Model Optimizer | create_sgpt_mask |
| torch_pruning | Torch-Pruning | HessianImportance |
"""
