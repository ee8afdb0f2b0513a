"""x."""
def report(runner):
    """X."""
    from vgg_mm.launch import test
    cfg=runner.cfg
    print(test(cfg, runner.message_hub.get_info("best_ckpt")))
