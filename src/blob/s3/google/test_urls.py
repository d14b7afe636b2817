import datetime, sys
from unittest import mock
from google.oauth2 import service_account
from google.cloud import storage
from google.cloud.storage import _signing
info={"type":"service_account","project_id":"p","private_key":open(sys.argv[1]).read(),"private_key_id":"k","client_email":"bytes@tests.iam.gserviceaccount.com","client_id":"1","token_uri":"https://oauth2.googleapis.com/token"}
cred=service_account.Credentials.from_service_account_info(info)
cl=storage.Client(project="p",credentials=cred)
now=datetime.datetime(2026,1,2,3,4,5,tzinfo=datetime.timezone.utc)
def sign(key,method,exp,headers,query,host):
    with mock.patch.object(_signing,"_NOW",lambda tz=None: now if tz else now.replace(tzinfo=None)):
        return cl.bucket("bytes").blob(key).generate_signed_url(version="v4",expiration=datetime.timedelta(seconds=exp),method=method,headers=headers or None,query_parameters=query or None,api_access_endpoint=host)
for a in [("a/b c+d~e.bin","PUT",3600,{"content-type":"text/plain; a=b","x-goog-if-generation-match":"0"},{},"https://storage.googleapis.com"),
          ("here/0123-00000001-0000000000000000","PUT",604800,{},{"partNumber":"7","uploadId":"AB/c+d=="},"https://storage.example.com:8443"),
          ("k","PUT",900,{"x-goog-hash":"crc32c=AAAAAA==","content-md5":"1B2M2Y8AsgTpgAmY7PhCfg==","x-goog-if-generation-match":"0"},{},"https://storage.googleapis.com")]:
    print(sign(*a))
