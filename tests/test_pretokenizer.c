/* test_pretokenizer.c - the words of each pre-tokenizer, against what Python's `regex` gives for the original
 * expressions, and what bounds the work on long runs. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/tokenizer.h"

/* Stands between words in the expected splits. */
static const char MARK[] = "\302\246";

enum { PRE_N = 12 };
static const char *const PRES[PRE_N] = {"default", "gpt-2",        "llama-bpe",      "qwen2",
                                        "gpt-4o",  "tekken",       "qwen35",         "starcoder",
                                        "falcon",  "deepseek-llm", "deepseek-coder", "deepseek-v3"};

/* One text a row, split by each of PRES in turn. */
static const char *const SPLITS[][PRE_N] = {
    {"Hello¦,¦ world¦!¦ It¦'¦s¦ ¦202¦4¦'¦s¦ ¦123¦456¦7¦ times¦.",
     "Hello¦,¦ world¦!¦ It¦'s¦ 2024¦'s¦ 1234567¦ times¦.",
     "Hello¦,¦ world¦!¦ It¦'s¦ ¦202¦4¦'s¦ ¦123¦456¦7¦ times¦.",
     "Hello¦,¦ world¦!¦ It¦'s¦ ¦2¦0¦2¦4¦'s¦ ¦1¦2¦3¦4¦5¦6¦7¦ times¦.",
     "Hello¦,¦ world¦!¦ It's¦ ¦202¦4¦'s¦ ¦123¦456¦7¦ times¦.",
     "Hello¦,¦ world¦!¦ It¦'s¦ ¦2¦0¦2¦4¦'s¦ ¦1¦2¦3¦4¦5¦6¦7¦ times¦.",
     "Hello¦,¦ world¦!¦ It¦'s¦ ¦2¦0¦2¦4¦'s¦ ¦1¦2¦3¦4¦5¦6¦7¦ times¦.",
     "Hello¦,¦ world¦!¦ It¦'s¦ ¦2¦0¦2¦4¦'s¦ ¦1¦2¦3¦4¦5¦6¦7¦ times¦.",
     "Hello¦,¦ world¦!¦ It¦'¦s¦ ¦202¦4¦'¦s¦ ¦123¦456¦7¦ times¦.",
     "Hello¦,¦ world¦!¦ It¦'¦s¦ ¦2024¦'¦s¦ ¦1234567¦ times¦.",
     "Hello¦,¦ world¦!¦ It¦'¦s¦ ¦2¦0¦2¦4¦'¦s¦ ¦1¦2¦3¦4¦5¦6¦7¦ times¦.",
     "Hello¦,¦ world¦!¦ It¦'s¦ ¦202¦4¦'s¦ ¦123¦456¦7¦ times¦."},
    {"I¦'¦LL¦ we¦'¦Ve¦ don¦'¦T¦ ¦'¦S¦ x¦'¦mas", "I¦'¦LL¦ we¦'¦Ve¦ don¦'¦T¦ '¦S¦ x¦'m¦as",
     "I¦'LL¦ we¦'Ve¦ don¦'T¦ '¦S¦ x¦'m¦as", "I¦'LL¦ we¦'Ve¦ don¦'T¦ '¦S¦ x¦'m¦as",
     "I'LL¦ we'Ve¦ don'T¦ '¦S¦ x'm¦as", "I¦'LL¦ we¦'Ve¦ don¦'T¦ '¦S¦ x¦'mas",
     "I¦'LL¦ we¦'Ve¦ don¦'T¦ '¦S¦ x¦'m¦as", "I¦'¦LL¦ we¦'¦Ve¦ don¦'¦T¦ '¦S¦ x¦'m¦as",
     "I¦'¦LL¦ we¦'¦Ve¦ don¦'¦T¦ ¦'¦S¦ x¦'¦mas", "I¦'¦LL¦ we¦'¦Ve¦ don¦'¦T¦ '¦S¦ x¦'¦mas",
     "I¦'¦LL¦ we¦'¦Ve¦ don¦'¦T¦ '¦S¦ x¦'¦mas", "I¦'LL¦ we¦'Ve¦ don¦'T¦ '¦S¦ x¦'mas"},
    {" ¦ leading¦ ¦ and¦  ¦ trailing¦   ", " ¦ leading¦ ¦ and¦  ¦ trailing¦   ",
     " ¦ leading¦ ¦ and¦  ¦ trailing¦   ", " ¦ leading¦ ¦ and¦  ¦ trailing¦   ",
     " ¦ leading¦ ¦ and¦  ¦ trailing¦   ", " ¦ leading¦ ¦ and¦  ¦ trailing¦   ",
     " ¦ leading¦ ¦ and¦  ¦ trailing¦   ", " ¦ leading¦ ¦ and¦  ¦ trailing¦   ",
     " ¦ leading¦ ¦ and¦  ¦ trailing¦   ", " ¦ leading¦ ¦ and¦  ¦ trailing¦   ",
     " ¦ leading¦ ¦ and¦  ¦ trailing¦   ", " ¦ leading¦ ¦ and¦  ¦ trailing¦   "},
    {"line¦\n\n ¦ next¦\r\n¦\t¦tab¦ \n¦ x", "line¦\n\n ¦ next¦\r\n¦\t¦tab¦ \n¦ x",
     "line¦\n\n¦ ¦ next¦\r\n¦\ttab¦ \n¦ x", "line¦\n\n¦ ¦ next¦\r\n¦\ttab¦ \n¦ x",
     "line¦\n\n¦ ¦ next¦\r\n¦\ttab¦ \n¦ x", "line¦\n\n¦ ¦ next¦\r\n¦\ttab¦ \n¦ x",
     "line¦\n\n¦ ¦ next¦\r\n¦\ttab¦ \n¦ x", "line¦\n\n ¦ next¦\r\n¦\t¦tab¦ \n¦ x",
     "line¦\n\n ¦ next¦\r\n¦\t¦tab¦ \n¦ x", "line¦\n¦\n¦ ¦ next¦\r¦\n¦\ttab¦ ¦\n¦ x",
     "line¦\n¦\n¦ ¦ next¦\r¦\n¦\ttab¦ ¦\n¦ x", "line¦\n\n¦ ¦ next¦\r\n¦\ttab¦ \n¦ x"},
    {"naïve¦ café¦ ЛЕВ中文字¦ かな", "naïve¦ café¦ ЛЕВ中文字¦ かな", "naïve¦ café¦ ЛЕВ中文字¦ かな",
     "naïve¦ café¦ ЛЕВ中文字¦ かな", "naïve¦ café¦ ЛЕВ中文字¦ かな", "naïve¦ café¦ ЛЕВ中文字¦ かな",
     "naïve¦ café¦ ЛЕВ中文字¦ かな", "naïve¦ café¦ ЛЕВ中文字¦ かな", "naïve¦ café¦ ЛЕВ中文字¦ かな",
     "na¦ï¦ve¦ caf¦é¦ ЛЕВ¦中文字¦ ¦かな", "naïve¦ café¦ ЛЕВ¦中文字¦ ¦かな", "naïve¦ café¦ ЛЕВ¦中文字¦ ¦かな"},
    {"a¦\314\201¦e¦\314\201¦ क¦\340\245\215¦ष¦\340\244\277",
     "a¦\314\201¦e¦\314\201¦ क¦\340\245\215¦ष¦\340\244\277",
     "a¦\314\201e¦\314\201¦ क¦\340\245\215ष¦\340\244\277",
     "a¦\314\201e¦\314\201¦ क¦\340\245\215ष¦\340\244\277", "a\314\201e\314\201¦ क\340\245\215ष\340\244\277",
     "a\314\201e\314\201¦ क\340\245\215ष\340\244\277", "a\314\201e\314\201¦ क\340\245\215ष\340\244\277",
     "a¦\314\201¦e¦\314\201¦ क¦\340\245\215¦ष¦\340\244\277",
     "a¦\314\201¦e¦\314\201¦ क¦\340\245\215¦ष¦\340\244\277",
     "a¦\314\201¦e¦\314\201 ¦क\340\245\215ष\340\244\277",
     "a¦\314\201¦e¦\314\201¦ ¦क¦\340\245\215¦ष¦\340\244\277",
     "a\314\201e\314\201¦ क\340\245\215ष\340\244\277"},
    {"123¦45¦ ¦٣٤٥¦ ¦Ⅷ²½¦ x¦9¦y", "12345¦ ٣٤٥¦ Ⅷ²½¦ x¦9¦y", "123¦45¦ ¦٣٤٥¦ ¦Ⅷ²½¦ x¦9¦y",
     "1¦2¦3¦4¦5¦ ¦٣¦٤¦٥¦ ¦Ⅷ¦²¦½¦ x¦9¦y", "123¦45¦ ¦٣٤٥¦ ¦Ⅷ²½¦ x¦9¦y", "1¦2¦3¦4¦5¦ ¦٣¦٤¦٥¦ ¦Ⅷ¦²¦½¦ x¦9¦y",
     "1¦2¦3¦4¦5¦ ¦٣¦٤¦٥¦ ¦Ⅷ¦²¦½¦ x¦9¦y", "1¦2¦3¦4¦5¦ ¦٣¦٤¦٥¦ ¦Ⅷ¦²¦½¦ x¦9¦y", "123¦45¦ ٣٤٥¦ Ⅷ²½¦ x¦9¦y",
     "12345¦ ¦٣٤٥¦ ¦Ⅷ¦²½¦ x¦9¦y", "1¦2¦3¦4¦5¦ ¦٣¦٤¦٥¦ ¦Ⅷ¦²¦½¦ x¦9¦y", "123¦45¦ ¦٣٤٥¦ ¦Ⅷ²½¦ x¦9¦y"},
    {"$¦100¦.¦00¦ ¦+=¦ ¦<=>¦ ¦~^¦ ¦...¦ ¦!!!¦\n\n¦//¦x¦/¦\n",
     "$¦100¦.¦00¦ +=¦ <=>¦ ~^¦ ...¦ !!!¦\n¦\n¦//¦x¦/¦\n", "$¦100¦.¦00¦ +=¦ <=>¦ ~^¦ ...¦ !!!\n\n¦//¦x¦/\n",
     "$¦1¦0¦0¦.¦0¦0¦ +=¦ <=>¦ ~^¦ ...¦ !!!\n\n¦//¦x¦/\n", "$¦100¦.¦00¦ +=¦ <=>¦ ~^¦ ...¦ !!!\n\n//¦x¦/\n",
     "$¦1¦0¦0¦.¦0¦0¦ +=¦ <=>¦ ~^¦ ...¦ !!!\n\n//¦x¦/\n", "$¦1¦0¦0¦.¦0¦0¦ +=¦ <=>¦ ~^¦ ...¦ !!!\n\n¦//¦x¦/\n",
     "$¦1¦0¦0¦.¦0¦0¦ +=¦ <=>¦ ~^¦ ...¦ !!!¦\n¦\n¦//¦x¦/¦\n",
     "$¦100¦.¦00¦ ¦+=¦ ¦<=>¦ ¦~^¦ ¦...¦ ¦!!!¦\n\n¦//¦x¦/¦\n",
     "$¦100¦.¦00¦ +=¦ <=>¦ ~^¦ ...¦ !!!¦\n¦\n¦//¦x¦/¦\n",
     "$¦1¦0¦0¦.¦0¦0¦ += <=> ~^¦ ...¦ !!!¦\n¦\n¦//¦x¦/¦\n", "$¦100¦.¦00¦ +=¦ <=>¦ ~^¦ ...¦ !!!\n\n¦//¦x¦/\n"},
    {"\302\240¦\343\200\200¦x¦\341\240\216¦y¦ \342\200\213¦z¦\342\200\250",
     "\302\240¦\343\200\200¦x¦\341\240\216¦y¦ \342\200\213¦z¦\342\200\250",
     "\302\240¦\343\200\200x¦\341\240\216y¦ \342\200\213¦z¦\342\200\250",
     "\302\240¦\343\200\200x¦\341\240\216y¦ \342\200\213¦z¦\342\200\250",
     "\302\240¦\343\200\200x¦\341\240\216y¦ \342\200\213¦z¦\342\200\250",
     "\302\240¦\343\200\200x¦\341\240\216y¦ \342\200\213¦z¦\342\200\250",
     "\302\240¦\343\200\200x¦\341\240\216y¦ \342\200\213¦z¦\342\200\250",
     "\302\240¦\343\200\200¦x¦\341\240\216¦y¦ \342\200\213¦z¦\342\200\250",
     "\302\240¦\343\200\200¦x¦\341\240\216¦y¦ \342\200\213¦z¦\342\200\250",
     "\302\240¦\343\200\200¦x¦\341\240\216¦y¦ ¦\342\200\213¦z¦\342\200\250",
     "\302\240¦\343\200\200¦x¦\341\240\216¦y¦ ¦\342\200\213¦z¦\342\200\250",
     "\302\240¦\343\200\200x¦\341\240\216y¦ ¦\342\200\213z¦\342\200\250"},
    {"👍🏽👨\342\200\215👩\342\200\215👧¦ ok", "👍🏽👨\342\200\215👩\342\200\215👧¦ ok",
     "👍🏽👨\342\200\215👩\342\200\215👧¦ ok", "👍🏽👨\342\200\215👩\342\200\215👧¦ ok",
     "👍🏽👨\342\200\215👩\342\200\215👧¦ ok", "👍🏽👨\342\200\215👩\342\200\215👧¦ ok",
     "👍🏽👨\342\200\215👩\342\200\215👧¦ ok", "👍🏽👨\342\200\215👩\342\200\215👧¦ ok",
     "👍🏽👨\342\200\215👩\342\200\215👧¦ ok",
     "👍🏽👨¦\342\200\215¦👩¦\342\200\215¦👧¦ ok",
     "👍🏽👨¦\342\200\215¦👩¦\342\200\215¦👧¦ ok",
     "👍🏽👨¦\342\200\215¦👩¦\342\200\215¦👧¦ ok"},
    {"\362\220\200\200¦ \363\240\204\200¦z", "\362\220\200\200¦ \363\240\204\200¦z",
     "\362\220\200\200¦ \363\240\204\200¦z", "\362\220\200\200¦ \363\240\204\200¦z",
     "\362\220\200\200¦ \363\240\204\200z", "\362\220\200\200¦ \363\240\204\200z",
     "\362\220\200\200¦ \363\240\204\200z", "\362\220\200\200¦ \363\240\204\200¦z",
     "\362\220\200\200¦ \363\240\204\200¦z", "\362\220\200\200 \363\240\204\200¦z",
     "\362\220\200\200 \363\240\204\200¦z", "\362\220\200\200¦ \363\240\204\200z"},
    {"     ", "     ", "     ", "     ", "     ", "     ", "     ", "     ", "     ", "     ", "     ",
     "     "},
    {"\n", "\n", "\n", "\n", "\n", "\n", "\n", "\n", "\n", "\n", "\n", "\n"},
    {"CamelCaseHTTPServer¦'¦s¦ ǅungla", "CamelCaseHTTPServer¦'s¦ ǅungla", "CamelCaseHTTPServer¦'s¦ ǅungla",
     "CamelCaseHTTPServer¦'s¦ ǅungla", "Camel¦Case¦HTTPServer's¦ ǅungla", "Camel¦Case¦HTTPServer¦'s¦ ǅungla",
     "CamelCaseHTTPServer¦'s¦ ǅungla", "CamelCaseHTTPServer¦'s¦ ǅungla", "CamelCaseHTTPServer¦'¦s¦ ǅungla",
     "CamelCaseHTTPServer¦'¦s¦ ǅ¦ungla", "CamelCaseHTTPServer¦'¦s¦ ǅungla", "CamelCaseHTTPServer¦'s¦ ǅungla"},
    {"x¦ ¦=¦ f¦`¦a¦`¦;¦ ¦ if¦ ¦(¦x¦ ¦!=¦ ¦0¦x¦1¦F¦)¦ ¦{¦\n¦\t¦return¦ ¦-¦1¦.¦5¦e¦-¦3¦;¦\n¦}¦\n",
     "x¦ =¦ f¦`¦a¦`;¦ ¦ if¦ (¦x¦ !=¦ 0¦x¦1¦F¦)¦ {¦\n¦\t¦return¦ -¦1¦.¦5¦e¦-¦3¦;¦\n¦}¦\n",
     "x¦ =¦ f¦`a¦`;¦ ¦ if¦ (¦x¦ !=¦ ¦0¦x¦1¦F¦)¦ {\n¦\treturn¦ -¦1¦.¦5¦e¦-¦3¦;\n¦}\n",
     "x¦ =¦ f¦`a¦`;¦ ¦ if¦ (¦x¦ !=¦ ¦0¦x¦1¦F¦)¦ {\n¦\treturn¦ -¦1¦.¦5¦e¦-¦3¦;\n¦}\n",
     "x¦ =¦ f¦`a¦`;¦ ¦ if¦ (¦x¦ !=¦ ¦0¦x¦1¦F¦)¦ {\n¦\treturn¦ -¦1¦.¦5¦e¦-¦3¦;\n¦}\n",
     "x¦ =¦ f¦`a¦`;¦ ¦ if¦ (¦x¦ !=¦ ¦0¦x¦1¦F¦)¦ {\n¦\treturn¦ -¦1¦.¦5¦e¦-¦3¦;\n¦}\n",
     "x¦ =¦ f¦`a¦`;¦ ¦ if¦ (¦x¦ !=¦ ¦0¦x¦1¦F¦)¦ {\n¦\treturn¦ -¦1¦.¦5¦e¦-¦3¦;\n¦}\n",
     "x¦ =¦ f¦`¦a¦`;¦ ¦ if¦ (¦x¦ !=¦ ¦0¦x¦1¦F¦)¦ {¦\n¦\t¦return¦ -¦1¦.¦5¦e¦-¦3¦;¦\n¦}¦\n",
     "x¦ ¦=¦ f¦`¦a¦`;¦ ¦ if¦ ¦(¦x¦ ¦!=¦ 0¦x¦1¦F¦)¦ ¦{¦\n¦\t¦return¦ ¦-¦1¦.¦5¦e¦-¦3¦;¦\n¦}¦\n",
     "x¦ =¦ f¦`¦a¦`;¦ ¦ if¦ (¦x¦ !=¦ ¦0¦x¦1¦F¦)¦ {¦\n¦\treturn¦ -¦1¦.¦5¦e¦-¦3¦;¦\n¦}¦\n",
     "x¦ =¦ f¦`¦a¦`¦;¦ ¦ if¦ (¦x¦ !¦= ¦0¦x¦1¦F¦)¦ {¦\n¦\treturn¦ -¦1¦.¦5¦e¦-¦3¦;¦\n¦}¦\n",
     "x¦ =¦ f¦`a¦`;¦ ¦ if¦ (¦x¦ !=¦ ¦0¦x¦1¦F¦)¦ {\n¦\treturn¦ -¦1¦.¦5¦e¦-¦3¦;\n¦}\n"},
    {"ПРИВЕТ¦ Привет¦ éÉa¦ ÀB¦ straßeX¦ ʰa¦ ªb", "ПРИВЕТ¦ Привет¦ éÉa¦ ÀB¦ straßeX¦ ʰa¦ ªb",
     "ПРИВЕТ¦ Привет¦ éÉa¦ ÀB¦ straßeX¦ ʰa¦ ªb", "ПРИВЕТ¦ Привет¦ éÉa¦ ÀB¦ straßeX¦ ʰa¦ ªb",
     "ПРИВЕТ¦ Привет¦ é¦Éa¦ ÀB¦ straße¦X¦ ʰa¦ ªb", "ПРИВЕТ¦ Привет¦ é¦Éa¦ ÀB¦ straße¦X¦ ʰa¦ ªb",
     "ПРИВЕТ¦ Привет¦ éÉa¦ ÀB¦ straßeX¦ ʰa¦ ªb", "ПРИВЕТ¦ Привет¦ éÉa¦ ÀB¦ straßeX¦ ʰa¦ ªb",
     "ПРИВЕТ¦ Привет¦ éÉa¦ ÀB¦ straßeX¦ ʰa¦ ªb", "ПРИВЕТ¦ Привет¦ éÉ¦a¦ À¦B¦ stra¦ß¦eX¦ ʰ¦a¦ ª¦b",
     "ПРИВЕТ¦ Привет¦ éÉa¦ ÀB¦ straßeX¦ ʰa¦ ªb", "ПРИВЕТ¦ Привет¦ éÉa¦ ÀB¦ straßeX¦ ʰa¦ ªb"},
    {"你好¦，¦世界¦。¦202¦4¦年¦ ひらがなカタカナ¦ 한국어¦123¦ test中文test",
     "你好¦，¦世界¦。¦2024¦年¦ ひらがなカタカナ¦ 한국어¦123¦ test中文test",
     "你好¦，世界¦。¦202¦4¦年¦ ひらがなカタカナ¦ 한국어¦123¦ test中文test",
     "你好¦，世界¦。¦2¦0¦2¦4¦年¦ ひらがなカタカナ¦ 한국어¦1¦2¦3¦ test中文test",
     "你好¦，世界¦。¦202¦4¦年¦ ひらがなカタカナ¦ 한국어¦123¦ test中文test",
     "你好¦，世界¦。¦2¦0¦2¦4¦年¦ ひらがなカタカナ¦ 한국어¦1¦2¦3¦ test中文test",
     "你好¦，世界¦。¦2¦0¦2¦4¦年¦ ひらがなカタカナ¦ 한국어¦1¦2¦3¦ test中文test",
     "你好¦，¦世界¦。¦2¦0¦2¦4¦年¦ ひらがなカタカナ¦ 한국어¦1¦2¦3¦ test中文test",
     "你好¦，¦世界¦。¦202¦4¦年¦ ひらがなカタカナ¦ 한국어¦123¦ test中文test",
     "你好¦，¦世界¦。¦2024¦年¦ ¦ひらがなカタカナ¦ ¦한국어¦123¦ test¦中文¦test",
     "你好¦，¦世界¦。¦2¦0¦2¦4¦年¦ ¦ひらがなカタカナ¦ ¦한국어¦1¦2¦3¦ test¦中文¦test",
     "你好¦，¦世界¦。¦202¦4¦年¦ ¦ひらがなカタカナ¦ 한국어¦123¦ test¦中文¦test"},
    {"“¦quoted¦”¦ ¦‘¦x¦’¦ ¦…¦ ¦—¦ ¦！？¦ａｂ¦１２", "“¦quoted¦”¦ ‘¦x¦’¦ …¦ —¦ ！？¦ａｂ¦１２",
     "“quoted¦”¦ ‘¦x¦’¦ …¦ —¦ ！？¦ａｂ¦１２", "“quoted¦”¦ ‘¦x¦’¦ …¦ —¦ ！？¦ａｂ¦１¦２",
     "“quoted¦”¦ ‘¦x¦’¦ …¦ —¦ ！？¦ａｂ¦１２", "“quoted¦”¦ ‘¦x¦’¦ …¦ —¦ ！？¦ａｂ¦１¦２",
     "“quoted¦”¦ ‘¦x¦’¦ …¦ —¦ ！？¦ａｂ¦１¦２", "“¦quoted¦”¦ ‘¦x¦’¦ …¦ —¦ ！？¦ａｂ¦１¦２",
     "“¦quoted¦”¦ ¦‘¦x¦’¦ ¦…¦ ¦—¦ ¦！？¦ａｂ¦１２", "“¦quoted¦”¦ ¦‘¦x¦’¦ ¦…¦ ¦—¦ ！？¦ａｂ¦１２",
     "“¦quoted¦”¦ ¦‘¦x¦’¦ ¦…¦ ¦—¦ ！？¦ａｂ¦１¦２", "“¦quoted¦”¦ ‘¦x¦’¦ …¦ —¦ ！？¦ａｂ¦１２"},
    {"a¦  \n \n ¦ b¦ \r\n\t¦ c¦   ", "a¦  \n \n ¦ b¦ \r\n\t¦ c¦   ", "a¦  \n \n¦ ¦ b¦ \r\n¦\t¦ c¦   ",
     "a¦  \n \n¦ ¦ b¦ \r\n¦\t¦ c¦   ", "a¦  \n \n¦ ¦ b¦ \r\n¦\t¦ c¦   ", "a¦  \n \n¦ ¦ b¦ \r\n¦\t¦ c¦   ",
     "a¦  \n \n¦ ¦ b¦ \r\n¦\t¦ c¦   ", "a¦  \n \n ¦ b¦ \r\n\t¦ c¦   ", "a¦  \n \n ¦ b¦ \r\n\t¦ c¦   ",
     "a¦  ¦\n¦ ¦\n¦ ¦ b¦ ¦\r¦\n¦\t¦ c¦   ", "a¦  ¦\n¦ ¦\n¦ ¦ b¦ ¦\r¦\n¦\t¦ c¦   ",
     "a¦  \n \n¦ ¦ b¦ \r\n¦\t¦ c¦   "},
    {"don¦'¦t¦ we¦'¦LL¦  ¦#¦hash¦ ¦@¦user¦ ¦$¦x¦_¦y¦ a¦.¦b¦,¦c¦ ¦(¦d¦)¦ e¦-¦mail¦ "
     "http¦://¦x¦.¦y¦/¦z¦?¦q¦=¦1¦&¦r¦=¦2",
     "don¦'t¦ we¦'¦LL¦ ¦ #¦hash¦ @¦user¦ $¦x¦_¦y¦ a¦.¦b¦,¦c¦ (¦d¦)¦ e¦-¦mail¦ "
     "http¦://¦x¦.¦y¦/¦z¦?¦q¦=¦1¦&¦r¦=¦2",
     "don¦'t¦ we¦'LL¦ ¦ #¦hash¦ @¦user¦ $¦x¦_y¦ a¦.b¦,c¦ (¦d¦)¦ e¦-mail¦ http¦://¦x¦.y¦/z¦?q¦=¦1¦&r¦=¦2",
     "don¦'t¦ we¦'LL¦ ¦ #¦hash¦ @¦user¦ $¦x¦_y¦ a¦.b¦,c¦ (¦d¦)¦ e¦-mail¦ http¦://¦x¦.y¦/z¦?q¦=¦1¦&r¦=¦2",
     "don't¦ we'LL¦ ¦ #¦hash¦ @¦user¦ $¦x¦_y¦ a¦.b¦,c¦ (¦d¦)¦ e¦-mail¦ http¦://¦x¦.y¦/z¦?q¦=¦1¦&r¦=¦2",
     "don¦'t¦ we¦'LL¦ ¦ #¦hash¦ @¦user¦ $¦x¦_y¦ a¦.b¦,c¦ (¦d¦)¦ e¦-mail¦ http¦://¦x¦.y¦/z¦?q¦=¦1¦&r¦=¦2",
     "don¦'t¦ we¦'LL¦ ¦ #¦hash¦ @¦user¦ $¦x¦_y¦ a¦.b¦,c¦ (¦d¦)¦ e¦-mail¦ http¦://¦x¦.y¦/z¦?q¦=¦1¦&r¦=¦2",
     "don¦'t¦ we¦'¦LL¦ ¦ #¦hash¦ @¦user¦ $¦x¦_¦y¦ a¦.¦b¦,¦c¦ (¦d¦)¦ e¦-¦mail¦ "
     "http¦://¦x¦.¦y¦/¦z¦?¦q¦=¦1¦&¦r¦=¦2",
     "don¦'¦t¦ we¦'¦LL¦  ¦#¦hash¦ ¦@¦user¦ ¦$¦x¦_¦y¦ a¦.¦b¦,¦c¦ ¦(¦d¦)¦ e¦-¦mail¦ "
     "http¦://¦x¦.¦y¦/¦z¦?¦q¦=¦1¦&¦r¦=¦2",
     "don¦'¦t¦ we¦'¦LL¦ ¦ #¦hash¦ @¦user¦ $¦x¦_¦y¦ a¦.¦b¦,¦c¦ (¦d¦)¦ e¦-¦mail¦ "
     "http¦://¦x¦.¦y¦/¦z¦?¦q¦=¦1¦&¦r¦=¦2",
     "don¦'¦t¦ we¦'¦LL¦ ¦ #¦hash¦ @¦user¦ $¦x¦_¦y¦ a¦.¦b¦,¦c¦ (¦d¦)¦ e¦-¦mail¦ "
     "http¦://¦x¦.¦y¦/¦z¦?¦q¦=¦1¦&¦r¦=¦2",
     "don¦'t¦ we¦'LL¦ ¦ #¦hash¦ @¦user¦ $¦x¦_y¦ a¦.b¦,c¦ (¦d¦)¦ e¦-mail¦ http¦://¦x¦.y¦/z¦?q¦=¦1¦&r¦=¦2"},
    {" ¦ naïve¦ ßß¦ ıİ¦ ა¦ ჟ¦ ¦123¦456¦78¦ ¦7½¦ ¦௧௨", " ¦ naïve¦ ßß¦ ıİ¦ ა¦ ჟ¦ 12345678¦ 7½¦ ௧௨",
     " ¦ naïve¦ ßß¦ ıİ¦ ა¦ ჟ¦ ¦123¦456¦78¦ ¦7½¦ ¦௧௨", " ¦ naïve¦ ßß¦ ıİ¦ ა¦ ჟ¦ ¦1¦2¦3¦4¦5¦6¦7¦8¦ ¦7¦½¦ ¦௧¦௨",
     " ¦ naïve¦ ßß¦ ı¦İ¦ ა¦ ჟ¦ ¦123¦456¦78¦ ¦7½¦ ¦௧௨",
     " ¦ naïve¦ ßß¦ ı¦İ¦ ა¦ ჟ¦ ¦1¦2¦3¦4¦5¦6¦7¦8¦ ¦7¦½¦ ¦௧¦௨",
     " ¦ naïve¦ ßß¦ ıİ¦ ა¦ ჟ¦ ¦1¦2¦3¦4¦5¦6¦7¦8¦ ¦7¦½¦ ¦௧¦௨",
     " ¦ naïve¦ ßß¦ ıİ¦ ა¦ ჟ¦ ¦1¦2¦3¦4¦5¦6¦7¦8¦ ¦7¦½¦ ¦௧¦௨", " ¦ naïve¦ ßß¦ ıİ¦ ა¦ ჟ¦ ¦123¦456¦78¦ 7½¦ ௧௨",
     " ¦ na¦ï¦ve¦ ßß¦ ıİ¦ ¦ა¦ ¦ჟ¦ ¦12345678¦ ¦7½¦ ¦௧௨",
     " ¦ naïve¦ ßß¦ ıİ¦ ¦ა¦ ¦ჟ¦ ¦1¦2¦3¦4¦5¦6¦7¦8¦ ¦7¦½¦ ¦௧¦௨",
     " ¦ naïve¦ ßß¦ ıİ¦ ა¦ ჟ¦ ¦123¦456¦78¦ ¦7½¦ ¦௧௨"},
};

typedef struct splitter {
    bpe_pre *pre;
    bpe_matcher *matcher;
} splitter;

static splitter splitter_open(const char *name) {
    splitter s;
    hotset_error err = {0};
    cr_assert_eq(bpe_pre_open(&s.pre, (gguf_string){name, strlen(name)}, false, &err), HOTSET_OK, "%s",
                 err.message);
    cr_assert_eq(bpe_matcher_open(&s.matcher, &err), HOTSET_OK);
    return s;
}

static void splitter_close(splitter *s) {
    bpe_pre_free(s->pre);
    bpe_matcher_free(s->matcher);
}

typedef struct joined {
    char text[512];
    size_t bytes;
} joined;

static hotset_status join(void *cookie, const char *word, size_t bytes) {
    joined *j = cookie;
    cr_assert_gt(bytes, 0u);
    if (j->bytes) {
        memcpy(j->text + j->bytes, MARK, 2);
        j->bytes += 2;
    }
    cr_assert_lt(j->bytes + bytes + 2, sizeof j->text);
    memcpy(j->text + j->bytes, word, bytes);
    j->bytes += bytes;
    return HOTSET_OK;
}

static size_t without_marks(const char *split, char *out) {
    size_t n = 0;
    while (*split) {
        if (strncmp(split, MARK, 2) == 0)
            split += 2;
        else
            out[n++] = *split++;
    }
    return n;
}

Test(pretokenizer, words_are_those_of_the_original_expressions) {
    for (size_t pre = 0; pre < PRE_N; pre++) {
        splitter s = splitter_open(PRES[pre]);
        for (size_t i = 0; i < COUNT_OF(SPLITS); i++) {
            char text[512];
            joined got = {.bytes = 0};
            size_t bytes = without_marks(SPLITS[i][pre], text);
            cr_assert_eq(bpe_pre_split(s.pre, s.matcher, text, bytes, join, &got, NULL), HOTSET_OK);
            got.text[got.bytes] = 0;
            cr_expect_str_eq(got.text, SPLITS[i][pre], "%s, text %zu", PRES[pre], i);
        }
        splitter_close(&s);
    }
}

Test(pretokenizer, aliases_split_alike) {
    static const char *const pairs[][2] = {{"llama-bpe", "llama3"},
                                           {"llama-bpe", "smaug-bpe"},
                                           {"gpt-2", "olmo"},
                                           {"qwen2", "deepseek-r1-qwen"},
                                           {"gpt-4o", "llama4"},
                                           {"gpt-2", "mpt"},
                                           {"starcoder", "refact"},
                                           {"starcoder", "command-r"},
                                           {"starcoder", "smollm"},
                                           {"smaug-bpe", "chatglm-bpe"},
                                           {"deepseek-v3", "hunyuan-dense"}};
    const char text[] = "It's 12345 words,\n\n  and DON'T x9\t!";
    for (size_t i = 0; i < COUNT_OF(pairs); i++) {
        joined got[2] = {0};
        for (size_t k = 0; k < 2; k++) {
            splitter s = splitter_open(pairs[i][k]);
            cr_assert_eq(bpe_pre_split(s.pre, s.matcher, text, strlen(text), join, &got[k], NULL), HOTSET_OK);
            splitter_close(&s);
        }
        cr_assert_str_eq(got[0].text, got[1].text);
    }
}

Test(pretokenizer, an_unknown_one_is_named) {
    bpe_pre *pre = (bpe_pre *)&pre;
    hotset_error err = {0};
    cr_assert_eq(bpe_pre_open(&pre, (gguf_string){"viking", 6}, false, &err), HOTSET_E_UNSUPPORTED);
    cr_assert_null(pre);
    cr_assert_eq(bpe_pre_open(&pre, (gguf_string){"viking", 6}, true, &err), HOTSET_E_ARGUMENT);
    cr_assert(strstr(err.message, "viking") && !strstr(err.message, "tokenizer.ggml.pre"), "%s", err.message);
    cr_assert_eq(bpe_pre_open(&pre, (gguf_string){"viking", 6}, false, &err), HOTSET_E_UNSUPPORTED);
    cr_assert(strstr(err.message, "viking") && strstr(err.message, "tokenizer.ggml.pre"), "%s", err.message);
}

static hotset_status count(void *cookie, const char *word, size_t bytes) {
    size_t *total = cookie;
    (void)word;
    total[0]++;
    total[1] += bytes;
    return HOTSET_OK;
}

/* Backtracking over a long run must neither fail nor take quadratic time. */
Test(pretokenizer, long_runs) {
    static const char *const units[] = {" ",  "a",   "A",        "1",  "!",
                                        "\n", " \n", "\314\201", "'s", "\360\237\221\215"};
    enum { RUN_BYTES = 1 << 20 };
    char *text = malloc(RUN_BYTES + 8);
    for (size_t pre = 0; pre < PRE_N; pre++) {
        splitter s = splitter_open(PRES[pre]);
        for (size_t i = 0; i < COUNT_OF(units); i++) {
            size_t unit_bytes = strlen(units[i]), bytes = 0, total[2] = {0};
            for (; bytes < RUN_BYTES; bytes += unit_bytes) memcpy(text + bytes, units[i], unit_bytes);
            cr_assert_eq(bpe_pre_split(s.pre, s.matcher, text, bytes, count, total, NULL), HOTSET_OK);
            cr_assert_eq(total[1], bytes);
        }
        splitter_close(&s);
    }
    free(text);
}

static hotset_status stop(void *cookie, const char *word, size_t bytes) {
    (void)word;
    (void)bytes;
    return --*(int *)cookie ? HOTSET_OK : HOTSET_E_CANCELLED;
}

Test(pretokenizer, a_failure_ends_the_walk) {
    splitter s = splitter_open("default");
    int left = 3;
    cr_assert_eq(bpe_pre_split(s.pre, s.matcher, "a b c d e", 9, stop, &left, NULL), HOTSET_E_CANCELLED);
    cr_assert_eq(left, 0);
    splitter_close(&s);
}
