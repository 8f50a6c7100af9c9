"""People's names from the five regions, with spellings in Latin letters for e-mail addresses."""

from __future__ import annotations

from scripts.mobile_actions_ar import more_values
from scripts.mobile_actions_ar.dialects.dev import values as dev_values
from scripts.mobile_actions_ar.grammar import items, words

FIRST = {
    "train": {
        "egyptian": items("""محمود، مصطفى، كريم، تامر، حسام، عمرو، إسلام، وائل، رأفت، جرجس، شيماء، مروة، دعاء، هبة،
            رانيا، نرمين،
            بسنت، ياسمين، أماني"""),
        "gulf": items("""فهد، سعود، تركي، نايف، بندر، مشعل، مبارك، راشد، حمد، خليفة، سلطان، عبدالرحمن، ثامر، نوف،
            العنود، موضي، شيخة،
            حصة، لطيفة، منيرة"""),
        "levantine": items("""جورج، إلياس، رامي، فادي، زياد، باسل، غسان، مازن، طوني، هيثم، علاء، وسيم، رنا، لمى،
            ميرنا، نانسي،
            جمانة، ديما، سوسن، رولا"""),
        "maghrebi": items("""حمزة، أيوب، ياسين، زكرياء، المهدي، هشام، رشيد، توفيق، منير، بلال، جمال، سكينة، خديجة،
            حنان، نعيمة،
            وردة، فاطمة الزهراء، سناء، مليكة"""),
        "shared": items("""أحمد، خالد، علي، حسن، حسين، عمر، عبدالله، إبراهيم، سمير، جميل، ماجد، وليد، طارق، عادل،
            فيصل، صالح، سعيد،
            ناصر، بدر، فاطمة، مريم، زينب، ليلى، سلمى، هند، أمل، منى، هدى، عائشة، رحمة، صفاء، وفاء، أسماء، لينا، دانا،
            إيمان"""),
    },
    "test": {
        "egyptian": items("شريف، أيمن، مدحت، نهى، إنجي، نجلاء"),
        "gulf": items("جاسم، غانم، عبدالعزيز، دلال، الجوهرة، شمة"),
        "levantine": items("نضال، أنطوان، شادي، سيرين، كارلا، ريما"),
        "maghrebi": items("المصطفى، لحسن، رضوان، فدوى، حكيمة، بشرى"),
        "shared": items("أنس، نزار، عماد، يونس، ضياء، لبنى، هالة، سهام، نادية"),
    },
}

LAST = {
    "train": {
        "egyptian": items("""المصري، الشناوي، البدري، شعبان، رمضان، الجندي، زهران، غنيم، الدسوقي، فؤاد، عبدالحميد،
            أبو زيد، حجازي،
            البحيري، الصاوي"""),
        "gulf": items("""العتيبي، المطيري، القحطاني، الدوسري، الشمري، الحربي، الزهراني، الغامدي، العجمي، الكواري،
            المنصوري، الكعبي،
            النعيمي، البلوشي، الهاجري، الرشيدي، آل مبارك"""),
        "levantine": items("""خوري، حداد، نجار، الخطيب، حمدان، النابلسي، الحلبي، الشامي، درويش، عيتاني، سلامة، قباني،
            جبران، شاهين،
            العلي، أبو خليل، الصباغ"""),
        "maghrebi": items("""بنعلي، العلوي، الإدريسي، التازي، بناني، الفاسي، بوزيد، بلقاسم، الطرابلسي، بوعزة، الحداوي،
            مزيان، قاسمي،
            برادة، العمراني، الوردي، بن عمر"""),
        "shared": items("""منصور، سليمان، مراد، بن سالم، الراوي، التميمي، الحسيني، الهاشمي، البغدادي، الجبوري، اليوسف،
            الفارس، السعدي"""),
    },
    "test": {
        "egyptian": items("البنا، الشربيني، عثمان، العدوي"),
        "gulf": items("السبيعي، الخالدي، المري، الظاهري"),
        "levantine": items("كنعان، اللحام، صليبا، الزعبي، أبو شقرا"),
        "maghrebi": items("بنجلون، الصنهاجي، زروق، الجزائري، بن يوسف"),
        "shared": items("الأنصاري، العبيدي، الكيلاني"),
    },
}

FEMALE = frozenset(items("""
    شيماء، مروة، دعاء، هبة، رانيا، نرمين، بسنت، ياسمين، أماني، نوف، العنود، موضي، شيخة، حصة، لطيفة، منيرة، رنا، لمى،
    ميرنا، نانسي،
    جمانة، ديما، سوسن، رولا، سكينة، خديجة، حنان، نعيمة، وردة، فاطمة الزهراء، سناء، مليكة، فاطمة، مريم، زينب، ليلى،
    سلمى، هند، أمل، منى،
    هدى، عائشة، رحمة، صفاء، وفاء، أسماء، لينا، دانا، إيمان، نهى، إنجي، نجلاء، دلال، الجوهرة، شمة، سيرين، كارلا، ريما،
    فدوى، حكيمة،
    بشرى، لبنى، هالة، سهام، نادية، أمي، أختي، مراتي، جدتي، زوجتي، مرتي، تيتا، ختي، جداتي، الوالدة، المعلمة، السكرتيرة،
    خالتي، حماتي،
    خطيبتي، بنت خالي، ابنة خالي"""))

LATIN_OF = {pair.split()[0].replace("_", " "): pair.split()[1] for pair in items("""
    محمود mahmoud، مصطفى mostafa، كريم karim، تامر tamer، حسام hossam، عمرو amr، إسلام islam، وائل wael، رأفت raafat،
    جرجس gerges، شيماء shaimaa، مروة marwa، دعاء doaa، هبة heba، رانيا rania، نرمين nermin، بسنت bassant،
    ياسمين yasmin، أماني amany، فهد fahad، سعود saud، تركي turki، نايف naif، بندر bandar، مشعل mishal، مبارك mubarak،
    راشد rashed، حمد hamad، خليفة khalifa، سلطان sultan، عبدالرحمن abdulrahman، ثامر thamer، نوف nouf، العنود alanoud،
    موضي moudi، شيخة shaikha، حصة hessa، لطيفة latifa، منيرة munira، جورج georges، إلياس elias، رامي rami، فادي fadi،
    زياد ziad، باسل basel، غسان ghassan، مازن mazen، طوني tony، هيثم haitham، علاء alaa، وسيم wassim، رنا rana،
    لمى lama، ميرنا mirna، نانسي nancy، جمانة joumana، ديما dima، سوسن sawsan، رولا roula، حمزة hamza، أيوب ayoub،
    ياسين yassine، زكرياء zakaria، المهدي elmehdi، هشام hicham، رشيد rachid، توفيق toufik، منير mounir، بلال bilal،
    جمال jamal، سكينة soukaina، خديجة khadija، حنان hanane، نعيمة naima، وردة warda، سناء sanaa، مليكة malika،
    أحمد ahmed، خالد khaled، علي ali، حسن hassan، حسين hussein، عمر omar، عبدالله abdullah، إبراهيم ibrahim،
    سمير samir، جميل jamil، ماجد majed، وليد walid، طارق tarek، عادل adel، فيصل faisal، صالح saleh، سعيد said،
    ناصر nasser، بدر badr، فاطمة fatima، مريم mariam، زينب zainab، ليلى laila، سلمى salma، هند hind، أمل amal،
    منى mona، هدى hoda، عائشة aisha، رحمة rahma، صفاء safaa، وفاء wafa، أسماء asma، لينا lina، دانا dana، إيمان iman،
    شريف sherif، أيمن ayman، مدحت medhat، نهى noha، إنجي engy، نجلاء najla، جاسم jassim، غانم ghanem،
    عبدالعزيز abdulaziz، دلال dalal، الجوهرة aljawhara، شمة shamma، نضال nidal، أنطوان antoine، شادي chadi،
    سيرين sirine، كارلا carla، ريما reema، المصطفى elmostafa، لحسن lahcen، رضوان redouane، فدوى fadwa، حكيمة hakima،
    بشرى bouchra، أنس anas، نزار nizar، عماد imad، يونس younes، ضياء diaa، لبنى lobna، هالة hala، سهام siham،
    نادية nadia، فاطمة_الزهراء fatimazahra""")}

LATIN = {
    "train": words("""
        ahmed mahmoud karim tamer shaimaa marwa heba hossam wael rania amr yasmin fahad saud turki naif bandar nouf
        hessa rashed hamad sultan mariam elias rami fadi ziad basel rana lama mirna ghassan mazen haitham dima
        hamza ayoub yassine hicham soukaina khadija hanane latifa rachid mounir bilal khaled ali hassan omar fatima
        zainab laila salma samir majed walid tarek sanaa hind amal mona adel faisal saleh nasser badr aisha wafa
        asma lina dana info support sales hr contact office"""),
    "test": words("""
        sherif ayman noha medhat jassim ghanem dalal sirine nidal chadi anas fadwa hakima lahcen redouane nizar
        lobna imad hala siham younes najla reema booking news"""),
}
LATIN_LAST = {
    "train": words("""
        masri mansour shennawi badri otaibi mutairi harbi zahrani khoury haddad najjar khatib alaoui tazi fassi
        bouzid"""),
    "test": words("""
        banna sherbini subaie khalidi kanaan lahham benjelloun zarrouk ansari obeidi"""),
}
DOMAINS = ("gmail.com", "hotmail.com", "yahoo.com", "outlook.com", "icloud.com", "alnoor.com", "sharika.net",
           "maktab.org", "jamia.edu", "tijara.co")

for _names, _more, _dev in ((FIRST, more_values.FIRST, dev_values.FIRST), (LAST, more_values.LAST, dev_values.LAST)):
    _names["train"] = {region: [*found, *_more[region]] for region, found in _names["train"].items()}
    _names["dev"] = _dev
for _latin, _more_latin, _dev_latin in ((LATIN, more_values.LATIN, dev_values.LATIN),
                                        (LATIN_LAST, more_values.LATIN_LAST, dev_values.LATIN_LAST)):  # fmt: skip
    _latin["train"] += _more_latin
    _latin["dev"] = _dev_latin
FEMALE |= more_values.FEMALE | dev_values.FEMALE
LATIN_OF = {**more_values.LATIN_OF, **dev_values.LATIN_OF, **LATIN_OF}
