"""The words the pretraining material is made of, in three languages and in code."""


def _split(words: str) -> tuple[str, ...]:
    return tuple(words.split())


NAMES = _split(
    "Ada Alma Amir Anton Bela Bruno Carla Chloe Cyril Dana Dora Elias Ella Emil Enzo Eva Felix Fiona Greta Hana "
    "Hugo Ines Ivan Jana Jules Karim Karl Lara Lea Leo Lia Mara Marco Mila Nadia Nils Noa Olga Oskar Pia Rosa "
    "Ruben Samir Selma Stella Tara Theo Timo Vera Viktor Wanda Xenia Yara Zeno"
)
SURNAMES = _split(
    "Adams Baker Berger Castillo Chen Davis Evans Ferrari Garcia Hansen Ito Jensen Kowalski Larsen Lopez Mendez "
    "Novak Olsen Petrov Quinn Rossi Schmid Silva Tanaka Turner Vogel Weber Wong Young Zeller"
)
TOWNS = _split(
    "Berlin Bonn Boston Bremen Davos Denver Dublin Essen Graz Hamburg Kiel Köln Lima Linz London Madrid Mainz "
    "Milan Oslo Paris Prague Rome Salzburg Seattle Tokyo Trier Ulm Vienna Warsaw Wien Winterthur Zürich"
)
DAYS = _split("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
TAGE = _split("Montag Dienstag Mittwoch Donnerstag Freitag Samstag Sonntag")
MONTHS = _split("January February March April May June July August September October November December")
COLORS = _split("red blue green yellow white black brown orange purple gray pink silver")
THINGS = _split(
    "apple bag ball basket bell bench bike boat book bottle bowl box bread brick broom bucket cake camera candle "
    "card carpet chair chest clock coat coin cup desk dress drum fan flag fork glass glove guitar hammer hat jar "
    "key kite knife ladder lamp letter map mirror needle net oven painting pan paper pen phone piano pillow pipe "
    "plate pot ring robe rope sack scarf shelf shirt shoe soap sock spoon stamp stool stove sword table tent "
    "ticket torch towel toy tray umbrella vase violin wagon wallet watch wheel whistle window wire"
)
VERBS = _split(
    "bought carried cleaned drew dropped found gave hid kept lifted lost mended moved opened painted pulled "
    "pushed saw sent sold stole threw took used wanted washed wrote reported noted observed covered passed "
    "rejected postponed repaired caught"
)
ENGLISH = _split(
    "a an and are as at be by does for from had has have how in is it its many much no not of on one or over "
    "since so than that the them then there these they this to two was we were what when which while who whom "
    "will with you your without also ask begin between cannot could each every go gives good great into keep let "
    "made make may more most need other out pass people said see seem should such take thank through up use very "
    "voted way went where would our their all any saw heard moved carries fails second motion ayes nays noted "
    "reported observed usual level recent months members questions answers reasons texts items meetings "
    "transcripts participants months weeks hours minutes wages prices about above acceleration account afternoon "
    "answer argument article ask average away bank bill bought brief building business calm case cents centimeter "
    "change chemical choice choices choose city claims class clear close combining company constant consumer "
    "contact council current day decline degrees demand density discussion distance district dollar dozen early "
    "economy electric employment energy equal even evening expected fact fast figure find flows following force "
    "forecast formed friend garden general gram growth half heat help higher household housing idea important in "
    "increase inflation interest job kind kilogram kilometer labor language large last law left legs length "
    "lesson letter level library light liquid list little loan lower magnet market mass math meaning measure "
    "meeting member meter minute modern moles money month morning motion mountain move nature neutral noise note "
    "number ohm ordinance oxygen paragraph participants parking percent piece place plan policy price problem "
    "product program public quarter question rate reaction reason recent report resistance resolution rest result "
    "right river road roll room school season second seen short side simple size small soil solve sound speed "
    "spending staff stance stay steady steps story street subject summary summer surface temperature text thermal "
    "thing time together total town trade train transcript tree truck under unemployment unit value version vote "
    "wages water weak weather weeks weight winter word work world write year monetary provide simplified German "
    "dove hawk choose solve write give version"
)
GERMAN = _split(
    "aber alle als am an auch auf aus bei das dass dem den der des die durch ein eine einem einen einer er es für "
    "gegen geht gibt haben hat ich ihr im in ist kann kein mehr mit nach nicht noch nur oder sagt schon sehr sei "
    "sich sie sind so über um und uns unter viele vom von vor war waren was wegen wenn wer werden wie wieder wir "
    "wird wo worden wurde wurden zu zum zur sein hatte Franken Menschen Männer Frauen Kinder Tage Jahre Wochen "
    "Autos sucht sieht Abend alt Anfang Antwort Arbeit Arzt Auge Auto Bahn Bauer Baum Behörde Beispiel Berg "
    "Besuch Bild Blume Brief Brot Bruder Brücke Buch Dorf Ende Erde Fahrrad Familie Fahrbahn Farbe Fenster Feuer "
    "Fluss Frage Frau Freitag Freund Garten Gefahr Geld Gemeinde Geschichte gesperrt gestürzt gross gut Haus "
    "Herbst Hilfe Himmel Hund Jahr Kanton Katze Kind Kirche klein Kopf Küche Land langsam Lastwagen Lehrer leicht "
    "Leute Licht Luft Mann Markt Meer Mensch Milch Minute Mitteilung Morgen Mutter Nacht Name neu niemand Opfer "
    "Ort Polizei Preis Rathaus Regen Reise Rentner richtig ruhig Sache Schaden Schiff Schnee Schule schnell "
    "schwer See Seite selten Sommer Sonne Spital Sprache Stadt Stein Strasse Stück Stunde Tag Tasche Teil Tier "
    "Tisch Treppe Tür Uhr Unfall Unglück Vater verletzt Verkehr Verdacht viel Vogel Wagen Wald Wasser Weg Welt "
    "Wetter Wind Winter Woche Wort Zahl Zeit Zeitung Zimmer Zug zusammen berichtet mitgeteilt erfreut"
)
CHINESE = _split(
    "天气 朋友 学校 老师 学生 城市 公园 图书 图书馆 电影 音乐 手机 电脑 电子 快递 外卖 地铁 单车 汽车 火车 飞机 "
    "早晨 晚上 今天 昨天 明天 周末 上班 加班 下班 跑步 吃饭 睡觉 读书 写字 文章 文本 报纸 新闻 话题 问题 判断 "
    "选择 输出 对象 态度 支持 反对 中立 指定 以下 一项 或者 方便 麻烦 有趣 无聊 划算 浪费 舒服 危险 安全 漂亮 "
    "难看 实用 吵闹 糟糕 喜欢 讨厌 觉得 其实 一点 但是 不过 另外 所以 因为 如果 已经 非常 太 真 很 人数 统计 垃圾 "
    "分类 校服 智能 手表 停车 停车场 小区 露天 夜市 网课 视频 直播 价格 质量 服务 水果 蔬菜 米饭 面条 牛奶 鸡蛋 "
    "苹果 西瓜 小猫 小狗 孩子 妈妈 爸爸 爷爷 奶奶 医生 工人 农民 春天 夏天 秋天 冬天 下雨 下雪 山上 河边 房间 "
    "桌子 椅子 窗户 门口 衣服 帽子 鞋子 颜色 红色 蓝色 绿色 白色 黑色 共享 早起 消息 公司 工作 生活 健康 时间 "
    "东西"
)
CODE = _split(
    "account address age amount balance buffer cache city client color count data date day email entry error "
    "event field file flag folder group height host index item key length level limit line link list logger "
    "message mode name node number offset order owner page parent path player point port price queue rate result "
    "row score sensor size speed start return self class object init main test assert equal append import def "
    "logging sys os json math random args kwargs None True False EOL NUM LIT STR state status table tag task text "
    "ticket time title token total user value weight width word"
)
CALLS = _split(
    "add build check clean close count fetch find get join load merge open parse print read run save send sort "
    "split update"
)
LIKES = _split("good great lovely fine nice sweet pleasant excellent")
DISLIKES = _split("bad awful ugly boring poor nasty terrible dreadful")
MÖGEN = _split("gut schön toll lecker nett wunderbar")
ABLEHNEN = _split("schlecht hässlich langweilig furchtbar öde mies")
喜欢 = _split("好吃 好看 有用 方便 舒服 有趣 便宜 可爱 漂亮 安全 实用 划算")
讨厌 = _split("难吃 难看 没用 麻烦 难受 无聊 太贵 讨厌 糟糕 危险 吵闹 浪费")

KINDS = {
    "mammal": _split("dog cat whale horse bat rabbit tiger lion cow goat wolf fox bear mouse"),
    "bird": _split("eagle duck owl penguin robin parrot crow swan hen goose"),
    "fish": _split("salmon shark trout tuna carp eel cod herring"),
    "reptile": _split("snake lizard turtle crocodile gecko iguana"),
    "insect": _split("ant bee beetle moth fly wasp cricket"),
    "solid": _split("stone ice brick coin pencil plate wood sand"),
    "liquid": _split("milk rain juice oil tea vinegar coffee soup"),
    "gas": _split("air steam oxygen helium nitrogen smoke hydrogen"),
    "metal": _split("iron copper gold silver tin zinc lead"),
    "fruit": _split("pear plum lemon cherry mango peach grape"),
    "tree": _split("oak elm pine birch maple"),
    "tool": _split("saw drill rake axe wrench chisel"),
}
PARTS = (
    ("spider", "leg", 8), ("cat", "leg", 4), ("horse", "leg", 4), ("beetle", "leg", 6), ("bird", "wing", 2),
    ("hand", "finger", 5), ("tricycle", "wheel", 3), ("car", "wheel", 4), ("triangle", "side", 3),
    ("square", "side", 4), ("week", "day", 7), ("year", "month", 12), ("day", "hour", 24), ("nickel", "cent", 5),
    ("dime", "cent", 10), ("dollar", "cent", 100), ("dozen", "piece", 12), ("crab", "claw", 2),
    ("minute", "second", 60),
)  # fmt: skip
GERMAN_PAIRS = (
    ("Automobilistin", "Autofahrerin"), ("Velo", "Fahrrad"), ("Landwirt", "Bauer"), ("Spital", "Krankenhaus"),
    ("Fahrbahn", "Strasse"), ("Seniorin", "alte Frau"), ("Pensionierter", "Rentner"),
    ("kollidieren", "zusammenstossen"), ("Minderjähriger", "Kind"), ("Gemeinde", "Dorf"),
    ("Touristin", "Besucherin"), ("entwenden", "stehlen"), ("beginnen", "anfangen"), ("benötigen", "brauchen"),
    ("erhalten", "bekommen"), ("beenden", "aufhören"), ("Kantonspolizei", "Polizei"), ("Betrüger", "Gauner"),
    ("erheblich", "gross"), ("Lehrperson", "Lehrerin"), ("Auszeichnung", "Preis"), ("Mediziner", "Arzt"),
    ("Domizil", "Wohnung"), ("erwerben", "kaufen"),
)  # fmt: skip
