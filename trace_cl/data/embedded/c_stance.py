"""C-STANCE in small: which stance does a Chinese text take towards a target? A for, B against, C neutral.

The stance has to be put together: an opinion word, perhaps turned round by a negation, said of the right one of two
targets.
"""

from trace_cl.draw import Draw

_TARGETS = (
    "地铁", "夜市", "网课", "外卖", "电子书", "快递柜", "短视频", "新校服", "停车场", "垃圾分类",
    "公园", "智能手表", "共享单车", "早起跑步", "周末加班", "露天电影", "养猫", "图书馆",
)  # fmt: skip
_GOOD = ("方便", "实用", "有趣", "划算", "舒服", "安全", "漂亮")
_BAD = ("麻烦", "无聊", "浪费", "危险", "难看", "吵闹", "糟糕")

_SAID = {
    "A": ("{target}真是{good}", "我觉得{target}很{good}", "{target}一点也不{bad}", "谁说{target}{bad}，其实很{good}"),
    "B": ("{target}真是{bad}", "我觉得{target}太{bad}了", "{target}一点也不{good}", "谁说{target}{good}，其实很{bad}"),
    "C": ("朋友昨天问起{target}", "报纸上有一篇写{target}的文章", "下个月会统计{target}的人数", "{target}是今天的话题"),
}


def _clause(draw: Draw, stance: str, target: str) -> str:
    return draw.one(_SAID[stance]).format(target=target, good=draw.one(_GOOD), bad=draw.one(_BAD))


def example(draw: Draw) -> tuple[str, str]:
    """A prompt and its stance, "A", "B" or "C", each as likely as the others."""
    stance = draw.one("ABC")
    target, other = draw.some(_TARGETS, 2)
    clauses = [_clause(draw, stance, target)]
    if draw.chance(0.6):
        clauses.append(_clause(draw, draw.one("ABC"), other))
    text = draw.one(("。", "，不过", "；另外")).join(draw.some(clauses, len(clauses))) + "。"
    prompt = (
        "判断以下文本对指定对象的态度，选择一项：A.支持，B.反对，C.中立。输出A，B或者C。\n"
        f"文本：\n{text}\n对象：\n{target}\n态度："
    )
    return prompt, stance
