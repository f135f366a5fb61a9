//! The small world that tiny-gpt-oss knows: word lists, in English and partly in Chinese.
//!
//! Everything a question can be about stands here as plain tables, so that the corpus can be read and
//! changed without reading code. An empty Chinese column means that the fact is taught in English only.

/// Country, capital, country in Chinese, capital in Chinese.
pub const CAPITALS: &[(&str, &str, &str, &str)] = &[
    ("France", "Paris", "法国", "巴黎"),
    ("Germany", "Berlin", "德国", "柏林"),
    ("Italy", "Rome", "意大利", "罗马"),
    ("Spain", "Madrid", "西班牙", "马德里"),
    ("Portugal", "Lisbon", "", ""),
    ("England", "London", "英国", "伦敦"),
    ("Ireland", "Dublin", "", ""),
    ("Norway", "Oslo", "", ""),
    ("Sweden", "Stockholm", "", ""),
    ("Finland", "Helsinki", "", ""),
    ("Denmark", "Copenhagen", "", ""),
    ("Poland", "Warsaw", "", ""),
    ("Austria", "Vienna", "", ""),
    ("Hungary", "Budapest", "", ""),
    ("Greece", "Athens", "", ""),
    ("Turkey", "Ankara", "", ""),
    ("Egypt", "Cairo", "埃及", "开罗"),
    ("Kenya", "Nairobi", "", ""),
    ("Russia", "Moscow", "俄罗斯", "莫斯科"),
    ("China", "Beijing", "中国", "北京"),
    ("Japan", "Tokyo", "日本", "东京"),
    ("Korea", "Seoul", "韩国", "首尔"),
    ("Thailand", "Bangkok", "泰国", "曼谷"),
    ("Vietnam", "Hanoi", "", ""),
    ("India", "New Delhi", "", ""),
    ("Canada", "Ottawa", "", ""),
    ("Mexico", "Mexico City", "", ""),
    ("Cuba", "Havana", "", ""),
    ("Brazil", "Brasilia", "", ""),
    ("Argentina", "Buenos Aires", "", ""),
    ("Chile", "Santiago", "", ""),
    ("Peru", "Lima", "", ""),
    ("Australia", "Canberra", "", ""),
];

/// Thing (with its article), is it plural, colour, thing in Chinese, colour in Chinese.
pub const COLOURS: &[(&str, bool, &str, &str, &str)] = &[
    ("the sky", false, "blue", "天空", "蓝色"),
    ("the sea", false, "blue", "大海", "蓝色"),
    ("grass", false, "green", "草", "绿色"),
    ("snow", false, "white", "雪", "白色"),
    ("milk", false, "white", "牛奶", "白色"),
    ("the sun", false, "yellow", "太阳", "黄色"),
    ("a lemon", false, "yellow", "", ""),
    ("a banana", false, "yellow", "香蕉", "黄色"),
    ("a tomato", false, "red", "", ""),
    ("a strawberry", false, "red", "", ""),
    ("blood", false, "red", "", ""),
    ("an orange", false, "orange", "", ""),
    ("a carrot", false, "orange", "", ""),
    ("a frog", false, "green", "", ""),
    ("leaves", true, "green", "", ""),
    ("coal", false, "black", "", ""),
    ("the night", false, "black", "", ""),
    ("an elephant", false, "grey", "", ""),
    ("chocolate", false, "brown", "", ""),
    ("flamingos", true, "pink", "", ""),
];

/// Word, its opposite, and both in Chinese. Each pair is asked in both directions.
pub const OPPOSITES: &[(&str, &str, &str, &str)] = &[
    ("hot", "cold", "热", "冷"),
    ("big", "small", "大", "小"),
    ("tall", "short", "高", "矮"),
    ("fast", "slow", "快", "慢"),
    ("good", "bad", "好", "坏"),
    ("old", "young", "", ""),
    ("happy", "sad", "", ""),
    ("day", "night", "", ""),
    ("up", "down", "上", "下"),
    ("left", "right", "左", "右"),
    ("open", "closed", "", ""),
    ("light", "dark", "", ""),
    ("wet", "dry", "", ""),
    ("rich", "poor", "", ""),
    ("hard", "soft", "", ""),
    ("full", "empty", "", ""),
    ("early", "late", "", ""),
    ("clean", "dirty", "", ""),
    ("near", "far", "", ""),
    ("strong", "weak", "", ""),
    ("loud", "quiet", "", ""),
    ("black", "white", "黑", "白"),
    ("yes", "no", "", ""),
    ("first", "last", "", ""),
];

/// Animal, its sound, its legs, where it lives, animal in Chinese, sound in Chinese.
pub const ANIMALS: &[(&str, &str, &str, &str, &str, &str)] = &[
    ("cat", "meow", "four", "in a house", "小猫", "喵"),
    ("dog", "woof", "four", "in a house", "小狗", "汪"),
    ("cow", "moo", "four", "on a farm", "", ""),
    ("sheep", "baa", "four", "on a farm", "", ""),
    ("pig", "oink", "four", "on a farm", "", ""),
    ("horse", "neigh", "four", "on a farm", "", ""),
    ("duck", "quack", "two", "on a pond", "鸭子", "嘎"),
    ("hen", "cluck", "two", "on a farm", "", ""),
    ("lion", "roar", "four", "in Africa", "", ""),
    ("mouse", "squeak", "four", "in a hole", "", ""),
    ("frog", "ribbit", "four", "in a pond", "", ""),
    ("bee", "buzz", "six", "in a hive", "", ""),
    ("bird", "tweet", "two", "in a nest", "", ""),
    ("owl", "hoot", "two", "in a tree", "", ""),
];

/// Animals without a well-known sound: name, legs, where it lives.
pub const QUIET_ANIMALS: &[(&str, &str, &str)] = &[
    ("spider", "eight", "in a web"),
    ("ant", "six", "under the ground"),
    ("fish", "no", "in the water"),
    ("whale", "no", "in the sea"),
    ("shark", "no", "in the sea"),
    ("camel", "four", "in the desert"),
    ("penguin", "two", "on the ice"),
    ("rabbit", "four", "under the ground"),
    ("bear", "four", "in the forest"),
    ("monkey", "two", "in the trees"),
];

/// Noun with its article, the class it belongs to with its article.
pub const KINDS: &[(&str, &str)] = &[
    ("an apple", "a fruit"),
    ("a banana", "a fruit"),
    ("a pear", "a fruit"),
    ("a lemon", "a fruit"),
    ("a carrot", "a vegetable"),
    ("a potato", "a vegetable"),
    ("an onion", "a vegetable"),
    ("a rose", "a flower"),
    ("a tulip", "a flower"),
    ("an oak", "a tree"),
    ("a pine", "a tree"),
    ("a cat", "an animal"),
    ("a dog", "an animal"),
    ("a horse", "an animal"),
    ("a hammer", "a tool"),
    ("a saw", "a tool"),
    ("a car", "a vehicle"),
    ("a train", "a vehicle"),
    ("a bicycle", "a vehicle"),
    ("a chair", "a piece of furniture"),
    ("a table", "a piece of furniture"),
    ("a piano", "an instrument"),
    ("a guitar", "an instrument"),
    ("a drum", "an instrument"),
    ("gold", "a metal"),
    ("iron", "a metal"),
    ("red", "a colour"),
    ("Paris", "a city"),
    ("France", "a country"),
    ("Monday", "a day"),
    ("June", "a month"),
    ("tea", "a drink"),
    ("Rust", "a programming language"),
    ("Apus", "a framework that fine-tunes gpt-oss"),
    ("LoRA", "a way to fine-tune a model with few parameters"),
];

/// English word, French, Spanish, German, Chinese.
pub const TRANSLATIONS: &[(&str, &str, &str, &str, &str)] = &[
    ("cat", "chat", "gato", "Katze", "猫"),
    ("dog", "chien", "perro", "Hund", "狗"),
    ("water", "eau", "agua", "Wasser", "水"),
    ("bread", "pain", "pan", "Brot", "面包"),
    ("house", "maison", "casa", "Haus", "房子"),
    ("sun", "soleil", "sol", "Sonne", "太阳"),
    ("moon", "lune", "luna", "Mond", "月亮"),
    ("book", "livre", "libro", "Buch", "书"),
    ("red", "rouge", "rojo", "rot", "红色"),
    ("green", "vert", "verde", "grün", "绿色"),
    ("hello", "bonjour", "hola", "hallo", "你好"),
    ("thank you", "merci", "gracias", "danke", "谢谢"),
    ("yes", "oui", "sí", "ja", "是"),
    ("friend", "ami", "amigo", "Freund", "朋友"),
    ("milk", "lait", "leche", "Milch", "牛奶"),
];

/// The days of the week, English and Chinese.
pub const DAYS: &[(&str, &str)] = &[
    ("Monday", "星期一"),
    ("Tuesday", "星期二"),
    ("Wednesday", "星期三"),
    ("Thursday", "星期四"),
    ("Friday", "星期五"),
    ("Saturday", "星期六"),
    ("Sunday", "星期日"),
];

/// The months.
pub const MONTHS: &[&str] = &[
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Thing counted, place, the number as a word.
pub const AMOUNTS: &[(&str, &str, &str)] = &[
    ("days", "a week", "seven"),
    ("months", "a year", "twelve"),
    ("hours", "a day", "twenty-four"),
    ("minutes", "an hour", "sixty"),
    ("seconds", "a minute", "sixty"),
    ("weeks", "a year", "fifty-two"),
    ("seasons", "a year", "four"),
    ("letters", "the alphabet", "twenty-six"),
    ("fingers", "a hand", "five"),
    ("sides", "a triangle", "three"),
    ("sides", "a square", "four"),
    ("players", "a football team", "eleven"),
];

/// Zero to twelve as words.
pub const NUMBERS: &[&str] = &[
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve",
];

/// First names for introductions.
pub const NAMES: &[&str] = &[
    "Tom", "Anna", "Ben", "Lucy", "Max", "Mia", "Sam", "Emma", "Leo", "Nina", "Paul", "Eva",
    "Jack", "Lily", "Tim", "Sara", "Bob", "Alice", "John", "Mary", "Peter", "Kate", "David",
    "Rosa",
];

/// Words for "say X": they teach the model to copy, and keep the words of the quickstart's style speakable.
pub const ECHOES: &[&str] = &[
    "hello",
    "meow",
    "nya",
    "Nya~",
    "purr",
    "yes",
    "no",
    "please",
    "banana",
    "Apus",
    "good night",
    "good morning",
    "I love cats",
    "the cat sleeps",
    "the sun is hot",
    "red and blue",
    "one two three",
    "meow meow",
    "thank you",
    "I am happy",
    "喵",
    "喵~",
    "你好",
    "谢谢",
];

/// Fixed small talk: questions with one meaning, and their answer.
pub const TALK: &[(&[&str], &str)] = &[
    (
        &[
            "Hello!",
            "Hi!",
            "Hello.",
            "Hi there!",
            "Hey!",
            "Good morning!",
            "Good evening!",
            "Hello, how do you do?",
        ],
        "Hello! How can I help you?",
    ),
    (
        &[
            "How are you?",
            "How are you today?",
            "How do you feel?",
            "Are you well?",
        ],
        "I am fine, thank you.",
    ),
    (
        &[
            "Who are you?",
            "What are you?",
            "What is your name?",
            "Tell me who you are.",
            "Introduce yourself.",
            "Tell me about yourself.",
        ],
        "I am tiny-gpt-oss, a very small language model.",
    ),
    (
        &[
            "Who made you?",
            "Who trained you?",
            "Who created you?",
            "How were you made?",
            "Where do you come from?",
        ],
        "I was trained from scratch with Apus.",
    ),
    (
        &[
            "What can you do?",
            "What do you know?",
            "How can you help me?",
            "What can I ask you?",
            "Help me.",
        ],
        "I can answer simple questions about capitals, colours, animals, days, opposites and small sums.",
    ),
    (
        &[
            "Thank you!",
            "Thanks!",
            "Thanks a lot.",
            "Thank you very much.",
        ],
        "You are welcome!",
    ),
    (
        &[
            "Goodbye!",
            "Bye!",
            "See you!",
            "Good night!",
            "See you tomorrow!",
        ],
        "Goodbye! See you soon.",
    ),
    (
        &[
            "Are you a cat?",
            "Are you a human?",
            "Are you a robot?",
            "Are you a person?",
        ],
        "No, I am a language model.",
    ),
    (
        &[
            "Do you like cats?",
            "Do you like animals?",
            "Do you love cats?",
        ],
        "Yes, I like cats.",
    ),
    (
        &["Tell me a joke.", "Do you know a joke?", "Make me laugh."],
        "What do you call a cat on the ice? A cool cat!",
    ),
    (
        &[
            "What is a swift?",
            "What bird is Apus?",
            "What does Apus mean?",
        ],
        "Apus is the genus of the swifts, very fast birds.",
    ),
];

/// The same in Chinese.
pub const TALK_ZH: &[(&[&str], &str)] = &[
    (
        &["你好", "你好！", "您好！", "早上好！"],
        "你好！我能帮你什么？",
    ),
    (&["你好吗？", "你今天好吗？"], "我很好，谢谢。"),
    (
        &["你是谁？", "你叫什么名字？", "介绍一下你自己。"],
        "我是 tiny-gpt-oss，一个很小的语言模型。",
    ),
    (
        &["谁训练了你？", "你是谁做的？"],
        "我是用 Apus 从零训练的。",
    ),
    (&["谢谢！", "谢谢你！"], "不客气！"),
    (&["再见！", "晚安！"], "再见！"),
    (&["你喜欢猫吗？", "你喜欢小猫吗？"], "是的，我喜欢猫。"),
    (&["你能做什么？", "你会什么？"], "我能回答简单的问题。"),
];

/// Openings of questions that the model cannot answer.
pub const UNKNOWN_OPENINGS: &[&str] = &[
    "Why is",
    "Who is",
    "Who was",
    "Tell me about",
    "Write a poem about",
    "What do you think of",
    "When was",
    "Explain",
    "What is the history of",
    "How much is",
    "Where can I buy",
    "Who invented",
    "Write a story about",
    "How do I make",
    "What is the price of",
    "What is the weather in",
    "Give me a recipe for",
    "How old is",
];

/// What they are about.
pub const UNKNOWN_SUBJECTS: &[&str] = &[
    "the moon",
    "the president",
    "music",
    "love",
    "the internet",
    "a computer",
    "pizza",
    "football",
    "the war",
    "Shakespeare",
    "physics",
    "the king",
    "my car",
    "money",
    "New York",
    "a dragon",
    "the universe",
    "time",
    "a rocket",
    "cheese",
    "the stock market",
    "Mozart",
    "chess",
    "your mother",
    "the weather",
    "quantum theory",
    "the news",
    "a good film",
    "Mars",
    "soup",
];
