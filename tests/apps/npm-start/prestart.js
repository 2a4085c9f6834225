console.log('before the start');
